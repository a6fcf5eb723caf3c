"""How does a history become rows that a checker judges, whatever it says?"""

from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from eventsaga.core.events import (
    Resolution,
    SagaEvent,
    SagaRecovered,
)
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.state import Status
from eventsaga.store.examine import EventRecord, SagaRecord, Violation
from eventsaga.store.invariants import (
    Known,
    Ledger,
    judge,
)
from eventsaga.store.projection import project
from eventsaga.wire.chain import GENESIS, link, salted
from eventsaga.wire.codec import encode, schema_version, stored_name
from tests.core.histories import (
    COMPENSATE,
    EXECUTE,
    SAGA,
    SECOND,
    T0,
    TWICE,
    WORKER,
    begun,
    child,
    child_ended,
    drive,
    for_each,
    parallel,
    pivot,
    recover,
    resolve,
    retry,
    saga,
    sequence,
    skip,
    step,
    undo,
)

CHAIN = saga(step("a"), step("b", compensate_retry=TWICE), step("c"))
COMPLETED = drive(CHAIN).events
UNDONE = drive(CHAIN, {("c", EXECUTE, 1): "fail", ("b", COMPENSATE, 1): "fail"}).events
UNKNOWN = drive(CHAIN, {("c", EXECUTE, 1): "doubt"}).events
STUCK = drive(CHAIN, {("c", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "fail"}).events
PIVOTED = saga(step("a"), pivot(), step("c"))
PAST_THE_PIVOT = drive(PIVOTED).events

Events = Sequence[SagaEvent]
CRASHED = begun(CHAIN)
CRASHED.send(recover())
CRASHED.go_on(lambda _: "ok")

RETRIED = drive(CHAIN, {("c", EXECUTE, 1): "fail", ("a", COMPENSATE, 1): "doubt"})
RETRIED.send(retry("a"))
RETRIED.go_on(lambda _: "ok")

RESOLVED = drive(CHAIN, {("c", EXECUTE, 1): "fail", ("b", COMPENSATE, 1): "permanent"})
RESOLVED.send(resolve("b", Resolution.COMPENSATED))

SKIPPED = drive(CHAIN, {("c", EXECUTE, 1): "fail", ("b", COMPENSATE, 1): "permanent"})
SKIPPED.send(skip("b"))

REVOKED = drive(CHAIN)
REVOKED.send(undo())
REVOKED.go_on(lambda _: "ok")

GROUPED_SAGA = saga(
    step("first"),
    parallel(step("left"), sequence(step("right"), step("after"))),
    for_each("each", step("item"), at_once=1),
    step("last"),
)
GROUPED = drive(GROUPED_SAGA, {("last", EXECUTE, 1): "fail"})

PARENT_SAGA = saga(step("a"), child(), step("c"))
PARENT = drive(PARENT_SAGA)
PARENT.send(child_ended(context={}))
PARENT.go_on(lambda _: "fail")
PARENT.send(child_ended(status=Status.COMPENSATED))
PARENT.go_on(lambda _: "ok")


def records_of(events: Events, worker_of: Callable[[int], UUID | None]) -> list[EventRecord]:
    """Return *events* as they would be stored, properly linked whatever they say."""
    records: list[EventRecord] = []
    previous = GENESIS
    for seq, event in enumerate(events, 1):
        name, data, salt = stored_name(event), encode(event), seq.to_bytes(4, "big")
        previous = link(previous, SAGA, seq, name, event.at, salted(salt, data))
        records.append(
            EventRecord(
                saga_id=SAGA,
                seq=seq,
                type=name,
                schema_version=schema_version(name),
                data=data.decode(),
                occurred_at=event.at,
                recorded_at=T0 + seq * SECOND,
                worker_id=worker_of(seq),
                salt=salt,
                hash=previous,
            )
        )
    return records


def row_of(events: Events, head: bytes) -> SagaRecord:
    """Return the row that *events* stand for."""
    row = project(SAGA, events)
    return SagaRecord(
        saga_id=SAGA,
        name=row.name,
        version=row.version,
        fingerprint=row.fingerprint,
        status=row.status.value,
        current_steps=row.current_steps,
        context=row.context,
        error=row.error,
        correlation_id=row.correlation_id,
        last_seq=row.last_seq,
        last_hash=head,
        created_at=row.created_at,
        updated_at=row.updated_at,
        parent_id=row.parent_id,
        parent_step=row.parent_step,
        tenant=row.tenant,
        owner=None if row.status.is_settled else WORKER,
        wake_at=None,
        is_held=not row.status.is_settled,
    )


def known(definition: SagaDefinition, most_takeovers: int | None = None) -> Known:
    return Known(definition=definition, has_policies=True, most_takeovers=most_takeovers)


def judged(
    definition: SagaDefinition,
    events: Events,
    *,
    believed: Events | None = None,
    ledger: Ledger | None = None,
    worker_of: Callable[[int], UUID | None] | None = None,
    most_takeovers: int | None = None,
) -> list[Violation]:
    """Return what is wrong with a saga whose rows are those of *events*.

    Args:
        definition: Its definition, with policies.
        events: What is stored.
        believed: What its row is a fold of, if *events* cannot be folded.
        ledger: What took effect.
        worker_of: Who wrote the event of a number; None for whoever owned the saga.
        most_takeovers: So many without progress.
    """
    records = records_of(events, worker_of or owner_of(events))
    head = records[-1].hash
    row = row_of(events if believed is None else believed, head)._replace(last_seq=len(records))
    key = (definition.name, definition.version, definition.fingerprint)
    return judge(SAGA, row, records, known={key: known(definition, most_takeovers)}, ledger=ledger)


def owner_of(events: Events) -> Callable[[int], UUID]:
    """Return who owned the saga when each event was written."""
    owners, owner = [WORKER], WORKER
    for event in events:
        owner = event.worker_id if isinstance(event, SagaRecovered) else owner
        owners.append(owner)
    return owners.__getitem__


def named(violations: Iterable[Violation]) -> list[tuple[int, int | None]]:
    return [(violation.invariant, violation.seq) for violation in violations]


def at(events: Events, kind: type[SagaEvent], about: str = "") -> int:
    """Return the place of the first event of *kind*; of those about a step if it is named."""
    return next(
        index
        for index, event in enumerate(events)
        if isinstance(event, kind) and about in {"", getattr(event, "step", "")}
    )
