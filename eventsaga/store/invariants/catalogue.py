"""What must always hold? The 26 invariants as data: number, name, a sentence, and who looks."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class How(StrEnum):
    """What an invariant is judged from."""

    ROWS = "rows"
    LEDGER = "rows+ledger"
    ACROSS = "across sagas"
    TEST = "by a test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    """Something that holds at every committed snapshot, whatever fails.

    Attributes:
        number: Stable; what a `Violation` carries.
        name: In a few words, for a report.
        statement: In one sentence.
        how: What it is judged from. What rows tell is judged without a ledger too.
        tests: Where it is put to the proof, by path; () if nowhere yet.
        gap: What is not judged yet, or only with more than the rows; "" if nothing.
    """

    number: int
    name: str
    statement: str
    how: How
    tests: tuple[str, ...] = ()
    gap: str = ""


_OWN: Final = "tests/store/test_invariants.py"

_ALL: Final = (
    Invariant(
        number=1,
        name="gapless",
        statement="The events of a saga are numbered from 1 to the count in its row.",
        how=How.ROWS,
        tests=(_OWN, "tests/store/postgres/test_verify.py"),
    ),
    Invariant(
        number=2,
        name="grammar",
        statement="Each event can stand where it stands; after the end only what may follow it.",
        how=How.ROWS,
        tests=(_OWN, "tests/core/test_grammar.py", "tests/store/postgres/test_verify.py"),
    ),
    Invariant(
        number=3,
        name="projection = fold",
        statement="The row of a saga is the fold of its events, byte for byte, the lease aside.",
        how=How.ROWS,
        tests=(_OWN, "tests/store/postgres/test_verify.py", "tests/store/postgres/test_rebuild.py"),
    ),
    Invariant(
        number=4,
        name="acked is durable",
        statement="What was acknowledged is in the events after any crash.",
        how=How.TEST,
        tests=(
            "tests/acceptance/test_crash.py",
            "tests/store/postgres/test_append_lost.py",
            "tests/faults/test_failover.py",
        ),
        gap="after a fail-over, as far as the standby had it: docs/guarantees.md",
    ),
    Invariant(
        number=5,
        name="start dedup",
        statement="A start key stands for one saga, and that saga was started with it.",
        how=How.ACROSS,
        tests=(_OWN, "tests/store/postgres/test_start.py"),
    ),
    Invariant(
        number=6,
        name="intent first",
        statement="Whatever took effect was meant to, by an event committed before it.",
        how=How.LEDGER,
        tests=(_OWN, "tests/acceptance/test_crash.py"),
    ),
    Invariant(
        number=7,
        name="key stability",
        statement="All attempts of an operation carry one key, and no other operation has it.",
        how=How.LEDGER,
        tests=(_OWN, "tests/acceptance/test_crash.py"),
    ),
    Invariant(
        number=8,
        name="DB-local exactly once",
        statement="The row of a transactional step exists once, if and only if it succeeded.",
        how=How.LEDGER,
        tests=(_OWN, "tests/acceptance/test_transactional_crash.py"),
    ),
    Invariant(
        number=9,
        name="remotely effectively once",
        statement="No effect is applied twice, and what succeeded was applied.",
        how=How.LEDGER,
        tests=(_OWN, "tests/acceptance/test_crash.py"),
    ),
    Invariant(
        number=10,
        name="no forward after the decision",
        statement="Nothing begins once a saga goes back, and nothing goes back after the pivot.",
        how=How.LEDGER,
        tests=(_OWN, "tests/core/test_properties.py"),
    ),
    Invariant(
        number=11,
        name="all or compensated",
        statement="Completed: every step succeeded. Compensated: nothing of it is left.",
        how=How.LEDGER,
        tests=(_OWN, "tests/core/test_properties.py"),
    ),
    Invariant(
        number=12,
        name="order of undoing",
        statement="A step is compensated after everything that depends on it.",
        how=How.LEDGER,
        tests=(_OWN, "tests/core/test_properties.py"),
    ),
    Invariant(
        number=13,
        name="undo once",
        statement="A step that was begun is compensated at most once, and only on the way back.",
        how=How.LEDGER,
        tests=(_OWN, "tests/core/test_properties.py"),
    ),
    Invariant(
        number=14,
        name="fence",
        statement="While an attempt runs, one worker writes, until another one takes over.",
        how=How.ROWS,
        tests=(_OWN, "tests/store/postgres/test_append.py", "tests/acceptance/test_crash.py"),
        gap="a worker's late write while nothing runs looks like a claim of its own",
    ),
    Invariant(
        number=15,
        name="exclusive grant",
        statement="At any instant at most one live lease covers a saga.",
        how=How.ACROSS,
        tests=(_OWN, "tests/store/postgres/test_claim.py", "tests/store/postgres/test_lease.py"),
        gap="tables keep no past leases: judged from grants that a test has recorded",
    ),
    Invariant(
        number=16,
        name="liveness",
        statement="A saga that has not settled has somebody who goes on with it, in time.",
        how=How.ACROSS,
        tests=(_OWN, "tests/store/postgres/test_verify.py"),
        gap="how late is too late only the operator knows: judged if it is said",
    ),
    Invariant(
        number=17,
        name="bounded trying",
        statement="Attempts fit the policy; takeovers without progress end in a parked saga.",
        how=How.ROWS,
        tests=(_OWN, "tests/core/test_properties.py", "tests/store/conformance/test_verbs.py"),
        gap="policies are not stored: judged if the definition itself is given",
    ),
    Invariant(
        number=18,
        name="no false ending",
        statement="A failed compensation is never called compensated; who is parked says why.",
        how=How.ROWS,
        tests=(_OWN, "tests/core/test_properties.py"),
    ),
    Invariant(
        number=19,
        name="immutable and linked",
        statement="No event is changed, or removed but for an archive: each is linked to the last.",
        how=How.ROWS,
        tests=(
            _OWN,
            "tests/store/postgres/test_verify.py",
            "tests/wire/test_chain.py",
            "tests/contract/test_anchor.py",
            "tests/store/postgres/test_archive.py",
        ),
        gap="an end that was cut off together with its row only an anchor shows",
    ),
    Invariant(
        number=20,
        name="redaction",
        statement="What was redacted is gone everywhere, and the chain still holds.",
        how=How.TEST,
        tests=("tests/contract/test_redact.py",),
        gap="backups and copies that were made before are not reached",
    ),
    Invariant(
        number=21,
        name="feed",
        statement="A consumer sees each committed event once, those of a saga in order.",
        how=How.TEST,
        tests=("tests/store/postgres/test_feed.py",),
    ),
    Invariant(
        number=22,
        name="replay is pure",
        statement="Folding a history calls nothing and writes nothing, for all releases.",
        how=How.TEST,
        tests=("tests/core/test_properties.py", "tests/wire/test_golden.py"),
    ),
    Invariant(
        number=23,
        name="clock independence",
        statement="Whatever a clock does, all of this holds, and no timer fires early.",
        how=How.TEST,
        tests=(
            "tests/runtime/test_sleep.py",
            "tests/store/postgres/test_lease.py",
            "tests/faults/test_clocks.py",
        ),
    ),
    Invariant(
        number=24,
        name="isolation",
        statement="Who may read one tenant sees no row of another.",
        how=How.TEST,
        tests=("tests/contract/test_tenants.py",),
    ),
    Invariant(
        number=25,
        name="no secret leaks",
        statement="No password, token or header is in a log, an event or an error.",
        how=How.TEST,
        tests=("tests/acceptance/test_secrets.py",),
        gap="what a user's own code puts into a context or a message stays there",
    ),
    Invariant(
        number=26,
        name="bounded input",
        statement="A payload that is refused leaves no row and a typed error; the worker lives.",
        how=How.TEST,
        tests=("tests/wire/test_payload_refused.py",),
    ),
)

INVARIANTS: Final[Mapping[int, Invariant]] = MappingProxyType(
    {invariant.number: invariant for invariant in _ALL}
)

START_DEDUP: Final = 5
INTENT_FIRST: Final = 6
KEY_STABILITY: Final = 7
LOCAL_ONCE: Final = 8
REMOTE_ONCE: Final = 9
NO_FORWARD: Final = 10
ALL_OR_COMPENSATED: Final = 11
ORDER: Final = 12
UNDO_ONCE: Final = 13
FENCE: Final = 14
EXCLUSIVE_GRANT: Final = 15
BOUNDED_TRYING: Final = 17
NO_FALSE_ENDING: Final = 18
