"""Which mistakes must never go unnoticed? Each breaks one invariant somewhere in the engine.

Those of decisions and folds have theirs in `tests.core.test_mutants`, those of a statement's
guard in `tests.store.postgres.test_mutants`; both run with the other tests.
"""

import importlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from unittest import mock

SIMULATION: Final = "simulation"
CORE: Final = "eventsaga.core"
MEMORY: Final = "eventsaga.testing.memory.MemoryStore"
SQL: Final = "eventsaga.store.postgres"

_SETTLED: Final = frozenset({"compensated", "compensation_failed", "uncompensated"})
_NUMBER_TOO_FAR: Final = "e.saga_id, e.seq + 1, e.type"


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        invariant: The number of what it breaks.
        name: What is wrong.
        patches: Dotted names, each with what stands in its place.
        caught_by: Tests of which one fails then, or `SIMULATION`.
    """

    invariant: int
    name: str
    patches: Sequence[tuple[str, object]]
    caught_by: str = SIMULATION

    @contextmanager
    def alive(self) -> Generator[None]:
        """Make the mistake."""
        with ExitStack() as stack:
            for target, mistake in self.patches:
                stack.enter_context(mock.patch(target, mistake))
            yield


def _wrapped(target: str, around: Callable[..., Any]) -> tuple[str, object]:
    """Return a patch of *target* that calls *around* with the real one first."""
    path, name = target.rsplit(".", 1)
    try:
        owner: Any = importlib.import_module(path)
    except ModuleNotFoundError:
        module, owner_name = path.rsplit(".", 1)
        owner = getattr(importlib.import_module(module), owner_name)
    real = getattr(owner, name)

    def mistaken(*args: Any, **kwargs: Any) -> Any:
        return around(real, *args, **kwargs)

    return target, mistaken


def _statement(target: str, old: str, new: str) -> tuple[str, object]:
    """Return a patch of a statement in which *old* is *new*."""
    module, name = target.rsplit(".", 1)
    text: str = getattr(importlib.import_module(module), name)
    assert old in text, f"{target} has changed: {old!r} is not in it"
    return target, text.replace(old, new)


def _verb(old: str, new: str) -> tuple[str, object]:
    """Return a patch of the store's verbs in which *old* is *new*."""

    def mistaken(qualify: Any, text: str, schema: str) -> Any:
        return qualify(text.replace(old, new), schema)

    return _wrapped(f"{SQL}.store.qualify", mistaken)


def _before_the_commit(append: Any, run: Any, *args: Any) -> None:
    append(run, *args)
    run._appending = False
    run.perform()
    run._appending = True


def _numbered_key(key: Any, state: Any, step: str, operation: Any) -> str:
    found = state.steps.get(step)
    return f"{key(state, step, operation)}/{0 if found is None else found.attempt}"


def _only_what_is_known(state: Any) -> bool:
    return bool(state.phase.value == "SUCCEEDED")


def _never(*_: object) -> bool:
    return False


def _nobody(*_: object) -> Iterator[str]:
    return iter(())


def _whoever_writes(append: Any, store: Any, encoded: Any, worker_id: Any) -> Any:
    row = store._rows[encoded.saga.saga_id]
    row.update(last_seq=encoded.saga.expected, owner=worker_id)
    return append(store, encoded, worker_id)


async def _nothing(*_: object) -> list[Any]:
    return []


def _without_key(start: Any, store: Any, encoded: Any, worker_id: Any) -> Any:
    saga = encoded.saga._replace(key=None)
    return start(store, encoded._replace(saga=saga), worker_id)


def _one_more(wait_after: Any, policy: Any, spent: int, jitter: float) -> Any:
    return wait_after(policy, max(1, spent - 1), jitter)


def _forgetful(link: Any, _previous: bytes, *rest: Any) -> Any:
    return link(bytes(32), *rest)


def _soon(due: Any, step: Any, at: Any) -> bool:
    return bool(due(step, at + timedelta(days=1)))


def _again(after: Any, draft: Any, step: Any, command: Any) -> Any:
    retried = command.retryable and command.operation.value == "execute"
    sequel = after(draft, step, command)
    return sequel._replace(retry_at=sequel.retry_at or command.at) if retried else sequel


def _owed_twice(state: Any) -> bool:
    if state.phase.value == "compensated" and state.undo_attempt < 2:
        return True
    return bool(state.may_have_happened and state.phase.value not in _SETTLED)


async def _unknown(*_: object) -> None:
    return None


def _itself(state: Any) -> Any:
    return state


def _takes_anything(text: str, _what: str) -> int:
    return len(text)


def mutants() -> tuple[Mutant, ...]:
    """Return all of them; the names that they patch are looked up here."""
    return (
        Mutant(
            1,
            "a number is left out",
            [_statement(f"{SQL}.append.APPEND", "e.saga_id, e.seq, e.type", _NUMBER_TOO_FAR)],
            "tests/store/postgres/test_append.py",
        ),
        Mutant(
            2,
            "a person may ask for anything at any time",
            [(f"{CORE}.requests.require", _never)],
            "tests/core/test_verbs.py",
        ),
        Mutant(
            3,
            "the row is written as it was before the events",
            [_statement(f"{SQL}.append.APPEND", "status = m.status,", "")],
            "tests/store/postgres/test_append.py tests/runtime/test_steps.py",
        ),
        Mutant(
            4,
            "a COMMIT without an answer is taken for a failure",
            [(f"{SQL}.writer.is_infrastructure", _never)],
            "tests/store/postgres/test_append_lost.py",
        ),
        Mutant(
            5,
            "a start forgets its key",
            [_wrapped(f"{MEMORY}._started", _without_key)],
        ),
        Mutant(
            5,
            "two starts of one key do not see each other",
            [
                _statement(
                    f"{SQL}.start.START", "WHERE g.key IS NULL OR EXISTS", "WHERE true OR EXISTS"
                )
            ],
            "tests/store/postgres/test_start.py",
        ),
        Mutant(
            6,
            "the effect comes before its intent is committed",
            [_wrapped("eventsaga.runtime.run.Run._append", _before_the_commit)],
        ),
        Mutant(
            7,
            "each attempt has a key of its own",
            [
                _wrapped(f"{CORE}.forward.idempotency_key", _numbered_key),
                _wrapped(f"{CORE}.backward.idempotency_key", _numbered_key),
            ],
        ),
        Mutant(
            8,
            "the user's rows are committed although the saga was lost",
            [("eventsaga.store.postgres.transact.append_arguments", None)],
            "tests/store/postgres/test_transact.py",
        ),
        Mutant(
            9,
            "a participant forgets what it has answered",
            [("eventsaga.participant.transaction.KeyTransaction._read", _unknown)],
            "tests/participants/test_middleware.py",
        ),
        Mutant(
            10,
            "a saga that goes back tries its steps again",
            [_wrapped(f"{CORE}.attempts._after_failure", _again)],
            "tests/core/test_cancel_and_deadline.py tests/core/test_parallel.py",
        ),
        Mutant(
            11,
            "what is in doubt is taken for not done",
            [
                (f"{CORE}.state.StepState.may_have_happened", property(_only_what_is_known)),
            ],
        ),
        Mutant(
            12,
            "compensations do not wait for what depends on them",
            [(f"{CORE}.ready.seen_through", _nobody)],
        ),
        Mutant(
            13,
            "what was undone is undone again",
            [(f"{CORE}.state.StepState.is_owed", property(_owed_twice))],
        ),
        Mutant(
            14,
            "the fence is gone, in memory",
            [_wrapped(f"{MEMORY}._appended", _whoever_writes)],
        ),
        Mutant(
            14,
            "the fence is gone, in PostgreSQL",
            [
                _statement(
                    f"{SQL}.append.APPEND",
                    " AND s.owner = $13::uuid",
                    " AND $13::uuid IS NOT NULL",
                )
            ],
            "tests/store/postgres/test_append.py",
        ),
        Mutant(
            14,
            "a worker that lost its saga answers its mail",
            [_verb("s.owner = $1::uuid OR s.last_seq = d.seq", "s.owner = $1::uuid OR true")],
            "tests/store/conformance",
        ),
        Mutant(
            15,
            "a claim takes sagas from the living",
            [_verb("WHERE w.lease_until <= clock_timestamp()", "WHERE true")],
            "tests/store/postgres/test_claim.py",
        ),
        Mutant(
            16,
            "what a lost answer granted is never looked for",
            [(f"{MEMORY}.load_owned", _nothing)],
        ),
        Mutant(
            16,
            "a saga is given up although it has moved on",
            [_verb(" AND s.last_seq = coalesce(g.seq, s.last_seq)", "")],
            "tests/store/conformance",
        ),
        Mutant(
            17,
            "one more attempt than the policy allows",
            [_wrapped(f"{CORE}.definition.RetryPolicy.wait_after", _one_more)],
            "tests/core/test_retry_policy.py tests/core/test_properties.py",
        ),
        Mutant(
            18,
            "a compensation that gave up is taken for done",
            [(f"{CORE}.state.StepState.gave_up", property(_never))],
            "tests/core/test_parking.py tests/core/test_compensation.py",
        ),
        Mutant(
            19,
            "the chain forgets what came before",
            [_wrapped(f"{SQL}.rows.link", _forgetful)],
            "tests/store/postgres/test_verify.py",
        ),
        Mutant(
            21,
            "a feed goes past transactions that are not over",
            [
                _statement(
                    f"{SQL}.feed.READ",
                    "   AND e.txid < pg_snapshot_xmin(pg_current_snapshot())\n",
                    "",
                )
            ],
            "tests/store/postgres/test_feed.py",
        ),
        Mutant(
            21,
            "a feed is read by time",
            [
                _statement(
                    f"{SQL}.feed.READ",
                    "ORDER BY e.txid, e.saga_id, e.seq",
                    "ORDER BY e.recorded_at",
                )
            ],
            "tests/store/postgres/test_feed.py",
        ),
        Mutant(
            21,
            "events keep the number of a transaction that is older than its saga",
            [_statement(f"{SQL}.append.APPEND", "CASE WHEN advanced.is_late", "CASE WHEN false")],
            "tests/store/postgres/test_feed.py",
        ),
        Mutant(
            22,
            "a fold changes the state that it was given",
            [(f"{CORE}.state.State.copy", _itself)],
            "tests/core",
        ),
        Mutant(
            23,
            "timers fire a day early",
            [_wrapped(f"{CORE}.forward.due", _soon)],
            "tests/core/test_waits.py",
        ),
        Mutant(
            26,
            "a payload may be of any size",
            [
                ("eventsaga.wire.payload.check_size", _takes_anything),
                ("eventsaga.runtime.patch.check_size", _takes_anything),
            ],
            "tests/wire/test_payload_refused.py",
        ),
    )
