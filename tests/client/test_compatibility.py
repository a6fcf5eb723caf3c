"""Does the check tell what a deploy would do to each saga that is under way?"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from eventsaga import Saga, Step
from eventsaga.client.compatibility import (
    Code,
    Finding,
    Group,
    Report,
    Verdict,
    definition_of,
    read_export,
)
from eventsaga.core.commands import StartSaga, Wake
from eventsaga.core.decide import transition
from eventsaga.core.events import SagaCompleted, SagaEvent, StepSucceeded
from eventsaga.core.state import State
from eventsaga.store.examine import EventRecord
from eventsaga.wire.codec import encode, schema_version, stored_name

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SAGA = UUID(int=1)


class Order(BaseModel):
    total: int = 0


class Richer(BaseModel):
    total: int = 0
    currency: str


async def nothing(_order: Order) -> None:
    pass


def order(
    *steps: str, version: int = 1, name: str = "order", model: type[BaseModel] = Order, **more: Any
) -> Saga[Any]:
    nodes = [Step(step, nothing) for step in steps or ("a", "b")]
    return Saga(name, context=model, steps=nodes, version=version, **more)


def in_euros(old: dict[str, Any]) -> dict[str, Any]:
    return {"currency": "EUR"} | old


def renamed(old: dict[str, Any]) -> dict[str, Any]:
    return {"total": old["sum"]}


def begun(saga: Saga[Any], context: dict[str, Any] | None = None) -> list[SagaEvent]:
    """Return the history of a saga whose first step runs."""
    state, events = State(SAGA), list[SagaEvent]()
    start = StartSaga(at=T0, context=context or {"total": 1}, correlation_id="c")
    for command in (start, Wake(at=T0)):
        after = transition(saga.definition, state, command)
        state = after.state
        events += after.events
    return events


def records(events: Sequence[SagaEvent], saga_id: UUID = SAGA) -> list[EventRecord]:
    return [
        EventRecord(
            saga_id,
            seq,
            stored_name(event),
            schema_version(stored_name(event)),
            encode(event).decode(),
            event.at,
            None,
            None,
            None,
            b"",
        )
        for seq, event in enumerate(events, 1)
    ]


def judged(running: Saga[Any], *code: Saga[Any], **more: Any) -> tuple[Verdict, str]:
    shapes = {key_of(running): running.definition.shape()}
    finding = Code(code, shapes).judge(records(begun(running, **more)))
    assert finding is not None
    assert finding.definition == key_of(running)
    return finding.verdict, finding.reason


def key_of(saga: Saga[Any]) -> tuple[str, int, str]:
    return saga.name, saga.definition.version, saga.definition.fingerprint


def test_the_same_definition_goes_on() -> None:
    assert judged(order(), order()) == (Verdict.COMPATIBLE, "")


def test_a_version_that_is_kept_beside_a_newer_one_is_pinned() -> None:
    assert judged(order(), order(), order("a", "c", version=2)) == (
        Verdict.PINNED,
        "it ends on its version, beside version 2",
    )


def test_a_version_that_only_old_workers_have_is_pinned_to_them() -> None:
    verdict, reason = judged(order(), order("a", "c", version=2))

    assert verdict is Verdict.PINNED
    assert reason == "only version 2 is registered: it waits for a worker that has version 1"


def test_a_change_without_a_new_version_would_break_and_is_named() -> None:
    verdict, reason = judged(order(), order("a", "c"))

    assert verdict is Verdict.BREAKS
    assert reason == "it has changed without a new version: 'b' is gone, 'c' is new"


def test_a_change_is_reported_although_the_old_shape_is_lost() -> None:
    finding = Code([order("a", "c")]).judge(records(begun(order())))

    assert finding is not None
    assert finding.reason.endswith("its old shape is not known")


def test_a_saga_that_nobody_has_would_break() -> None:
    assert judged(order(), order(name="other")) == (
        Verdict.BREAKS,
        "no version of it is registered",
    )


def test_a_context_that_does_not_fit_any_more_would_break() -> None:
    verdict, reason = judged(order(), order(model=Richer))

    assert verdict is Verdict.BREAKS
    assert reason == "its context does not fit any more: $.currency: Field required"


def test_a_context_that_is_migrated_fits() -> None:
    migrating = order(model=Richer, migrate_context=in_euros)

    assert judged(order(), migrating) == (Verdict.COMPATIBLE, "")


def test_a_migration_that_fails_would_break() -> None:
    migrating = order(migrate_context=renamed)

    verdict, reason = judged(order(), migrating)

    assert verdict is Verdict.BREAKS
    assert "migrate_context failed: KeyError('sum')" in reason


def test_a_saga_that_has_ended_is_of_no_interest() -> None:
    events = begun(order("a"))
    events += [StepSucceeded(at=T0, step="a", attempt=1), SagaCompleted(at=T0)]

    assert Code([]).judge(records(events)) is None


def test_histories_that_cannot_be_read_would_break() -> None:
    whole = records(begun(order()))

    def told(found: Sequence[EventRecord]) -> str:
        finding = Code([order()]).judge(found)
        assert finding is not None
        assert finding.verdict is Verdict.BREAKS
        return finding.reason

    unknown = [*whole[:1], whole[1]._replace(type="StepTeleported")]
    assert "StepTeleported" in told(unknown)
    assert told(whole[1:]) == "its history cannot be read: event 1 is missing"
    assert "event 2" in told([whole[0], whole[0]._replace(seq=2)])
    assert "time is out of range" in told([whole[0]._replace(occurred_at=None)])
    assert definition_of(whole[1:]) is None


# -- the report ---------------------------------------------------------------------------


def test_a_report_counts_by_definition_and_reason_and_keeps_a_few_ids() -> None:
    report, key = Report(), ("order", 1, "f")
    for number in range(8):
        report.add(Finding(UUID(int=number), key, Verdict.BREAKS, "gone"))
    report.add(Finding(UUID(int=9), key, Verdict.COMPATIBLE))
    report.add(None)

    assert report.totals == {Verdict.COMPATIBLE: 1, Verdict.PINNED: 0, Verdict.BREAKS: 8}
    assert report.groups == [
        Group(key, Verdict.COMPATIBLE, "", 1, [UUID(int=9)]),
        Group(key, Verdict.BREAKS, "gone", 8, [UUID(int=number) for number in range(5)]),
    ]
    assert [group.must_be_named for group in report.groups] == [False, True]


def test_a_report_does_not_grow_with_reasons_that_all_differ() -> None:
    report = Report()
    for number in range(1000):
        report.add(Finding(UUID(int=number), None, Verdict.BREAKS, f"reason {number}"))

    assert len(report.groups) == 21
    assert report.groups[0].reason == "for other reasons"
    assert report.count(Verdict.BREAKS) == 1000


# -- a file -------------------------------------------------------------------------------


def exported(saga_id: UUID, saga: Saga[Any], *, with_shape: bool) -> list[str]:
    lines: list[str] = []
    for record in records(begun(saga), saga_id):
        assert record.occurred_at is not None
        row = {
            **record._asdict(),
            "saga_id": str(saga_id),
            "data": json.loads(record.data or "null"),
            "occurred_at": record.occurred_at.isoformat(),
            "hash": "00",
        }
        beside = {"graph": saga.definition.shape()} if with_shape and record.seq == 1 else {}
        lines.append(json.dumps(row | beside) + "\n")
    return lines


def test_an_export_is_read_saga_by_saga_with_the_shapes_in_it() -> None:
    first = exported(UUID(int=1), order(), with_shape=True)
    second = exported(UUID(int=2), order(), with_shape=False)

    found = list(read_export([*first, "\n", *second]))

    assert [each.records[0].saga_id for each in found] == [UUID(int=1), UUID(int=2)]
    assert [each.shape is None for each in found] == [False, True]
    code = Code([order("a", "c")])
    findings = list[Finding | None]()
    for each in found:
        code.learn_shape(each)
        findings.append(code.judge(each.records))
    assert [finding and finding.reason for finding in findings] == [
        "it has changed without a new version: 'b' is gone, 'c' is new"
    ] * 2


def test_instants_survive_the_export() -> None:
    (found,) = read_export(exported(SAGA, order(), with_shape=False))

    at = found.records[0].occurred_at
    assert at is not None
    assert (at, at.utcoffset()) == (T0, timedelta(0))
    assert Code([order()]).judge(found.records) == Finding(
        SAGA, key_of(order()), Verdict.COMPATIBLE
    )


@pytest.mark.parametrize("line", ["nonsense", "[]", "{}", '{"saga_id": "x"}', "17"])
def test_what_is_no_export_is_refused_with_the_line(line: str) -> None:
    lines = [*exported(SAGA, order(), with_shape=False), line]

    with pytest.raises(ValueError, match=f"line {len(lines)} is no event of an export"):
        list(read_export(lines))
