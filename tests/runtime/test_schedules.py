"""Does every slot start once? Slots are put into the past in the table, so nothing waits."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsaga import DatabaseUnavailableError, DefinitionError, Orchestrator, Saga, Schedule, Step
from eventsaga.runtime.clock import DatabaseClock
from eventsaga.runtime.prepare import prepare
from eventsaga.runtime.schedule import Scheduler
from eventsaga.store.ports import Start, Started
from eventsaga.store.postgres.store import PostgresStore
from eventsaga.store.slots import Planned
from tests.runtime.sagas import QUICK, Order, nothing, one_step, orchestrating, run_sql, until
from tests.store.builders import new_worker

SAGA = one_step(nothing)
MINUTE = timedelta(minutes=1)
CAUGHT_UP = "SELECT bool_and(next_at > now()) FROM eventsaga.schedules"


def schedule(name: str = "minutely", cron: str = "* * * * *", **options: Any) -> Schedule:
    """Return a schedule of one step."""
    given: dict[str, Any] = {"context": Order()} | options
    return Schedule(name, SAGA, cron=cron, **given)


def berlin(cron: str) -> Schedule:
    return schedule(cron=cron, timezone="Europe/Berlin")


def slots(given: Schedule, start: str, count: int) -> list[str]:
    """Return the next slots after an instant, as the clocks in Berlin show them."""
    instant, found = datetime.fromisoformat(start), list[str]()
    for _ in range(count):
        instant = given.next_after(instant)
        found.append(f"{instant.astimezone(given._zone):%m-%d %H:%M%z}")
    return found


# -- which slots there are -----------------------------------------------------------------


def test_a_time_that_the_clock_jumps_over_is_run_right_after_the_jump() -> None:
    assert slots(berlin("30 2 * * *"), "2027-03-27T12:00+01:00", 2) == [
        "03-28 03:00+0200",
        "03-29 02:30+0200",
    ]


def test_a_time_that_the_clock_shows_twice_is_run_the_first_time() -> None:
    assert slots(berlin("30 2 * * *"), "2027-10-30T12:00+02:00", 2) == [
        "10-31 02:30+0200",
        "11-01 02:30+0100",
    ]


@pytest.mark.parametrize("now", ["2027-10-31T02:10+01:00", "2027-10-31T02:40+01:00"])
def test_the_second_time_is_no_slot_whenever_one_asks(now: str) -> None:
    """A worker that begins within the repeated hour must not go back to the first."""
    assert slots(berlin("30 2 * * *"), now, 1) == ["11-01 02:30+0100"]


def test_an_hourly_slot_comes_every_hour_as_clocks_go_forward() -> None:
    assert slots(berlin("0 * * * *"), "2027-03-28T00:30+01:00", 3) == [
        "03-28 01:00+0100",
        "03-28 03:00+0200",
        "03-28 04:00+0200",
    ]


def test_an_hourly_slot_comes_every_hour_as_clocks_go_back() -> None:
    assert slots(berlin("0 * * * *"), "2027-10-31T01:30+02:00", 3) == [
        "10-31 02:00+0200",
        "10-31 02:00+0100",
        "10-31 03:00+0100",
    ]


@pytest.mark.parametrize("cron", ["0 * * * *", "30 2 * * *", "*/20 1-3 * * *", "10,50 2,3 * * *"])
@pytest.mark.parametrize("day", ["2027-03-27T22:07:30+00:00", "2027-10-30T22:07:30+00:00"])
def test_whoever_asks_between_two_slots_gets_the_second(cron: str, day: str) -> None:
    """All workers agree on the slots, whenever each of them begins."""
    given, instant = berlin(cron), datetime.fromisoformat(day)
    following = given.next_after(instant)
    for _ in range(9 * 60):
        instant += MINUTE
        if instant >= following:
            following = given.next_after(following)
        assert given.next_after(instant) == following > instant


def test_a_key_names_the_slot_in_utc() -> None:
    given = berlin("30 2 * * *")

    first, second = (
        given.key(datetime.fromisoformat(f"2027-10-31T02:00{offset}"))
        for offset in ("+02:00", "+01:00")
    )

    assert first == "schedule/minutely/2027-10-31T00:00:00Z"
    assert second == "schedule/minutely/2027-10-31T01:00:00Z"


# -- what is refused -----------------------------------------------------------------------


async def _later(_slot: datetime) -> Order:
    return Order()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cron": "* * * *"}, "five fields"),
        ({"cron": "* * * * * *"}, "five fields"),
        ({"cron": "61 * * * *"}, "Bad minute"),
        ({"cron": "0 0 30 2 *"}, "Bad day-of-month"),
        ({"cron": 5}, "cannot be read"),
        ({"timezone": "Europe/Atlantis"}, "tz database"),
        ({"timezone": "../etc"}, "tz database"),
        ({"timezone": "Europe"}, "tz database"),
        ({"context": {"amount": "much"}}, r"\$.amount"),
        ({"context": _later}, "plain function"),
        ({"context": None}, "plain function"),
        ({"catch_up": -1}, "negative"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(DefinitionError, match=rf"schedule 'minutely': .*{reason}"):
        schedule(**options)


def test_a_name_that_cannot_stand_in_a_key_is_refused() -> None:
    with pytest.raises(DefinitionError, match="schedule name 'a/b'"):
        schedule("a/b")


def test_two_schedules_of_one_name_are_refused() -> None:
    with pytest.raises(DefinitionError, match="schedule 'minutely' is registered twice"):
        Orchestrator("postgresql://h/d", [SAGA], schedules=[schedule(), schedule()])


def test_a_schedule_of_a_saga_that_is_not_given_is_refused() -> None:
    other = Saga("other", context=Order, steps=[Step("only", nothing)])

    with pytest.raises(DefinitionError, match="schedule 'minutely': Saga"):
        Orchestrator("postgresql://h/d", [other], schedules=[schedule()])


# -- over several workers ------------------------------------------------------------------


async def planned_ago(
    database: str, minutes: int, cron: str = "* * * * *", by: UUID | None = None
) -> datetime:
    """Put a schedule into the table that nobody has looked after for *minutes*."""
    connection = await asyncpg.connect(database)
    try:
        found: datetime = await connection.fetchval(
            "INSERT INTO eventsaga.schedules (name, saga_name, cron, timezone, next_at, worker_id)"
            " VALUES ('minutely', 'one', $1, 'UTC',"
            "         date_trunc('minute', now()) - make_interval(mins => $2), $3)"
            " RETURNING next_at",
            cron,
            minutes,
            by or uuid4(),
        )
    finally:
        await connection.close()
    return found


async def started(database: str) -> list[datetime]:
    """Return the slots that were started, in the order in which they were."""
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            "SELECT split_part(key, '/', 3) AS slot FROM eventsaga.sagas"
            "  JOIN eventsaga.start_keys USING (saga_id) ORDER BY created_at, saga_id"
        )
        sagas = await connection.fetchval("SELECT count(*) FROM eventsaga.sagas")
    finally:
        await connection.close()
    assert sagas == len(rows)
    return [datetime.fromisoformat(row["slot"]) for row in rows]


async def next_at(database: str) -> datetime:
    found: datetime = await until(database, "SELECT next_at FROM eventsaga.schedules")
    return found


def minutes_between(first: datetime, end: datetime) -> list[datetime]:
    return [first + MINUTE * number for number in range((end - first) // MINUTE)]


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_each_missed_slot_is_started_once_over_all_workers(
    database: str, workers: int
) -> None:
    first = await planned_ago(database, 20)

    async with AsyncExitStack() as stack:
        for _ in range(workers):
            await stack.enter_async_context(
                Orchestrator(database, [SAGA], schedules=[schedule()], settings=QUICK)
            )
        await until(database, CAUGHT_UP)

    found = await started(database)
    assert found == minutes_between(first, await next_at(database))
    assert len(found) >= 21


async def test_what_a_schedule_started_is_run(database: str) -> None:
    await planned_ago(database, 1)

    async with Orchestrator(database, [SAGA], schedules=[schedule()], settings=QUICK):
        await until(database, "SELECT count(*) > 1 FROM eventsaga.sagas WHERE status = 'COMPLETED'")

    assert await until(
        database, "SELECT bool_and(correlation_id = saga_id::text) FROM eventsaga.sagas"
    )


async def test_a_process_without_a_worker_starts_nothing(database: str) -> None:
    first = await planned_ago(database, 1)

    async with Orchestrator(database, [SAGA], schedules=[schedule()], worker=False, settings=QUICK):
        await asyncio.sleep(0)

    assert await next_at(database) == first


async def test_a_new_schedule_begins_in_the_future(database: str) -> None:
    async with Orchestrator(database, [SAGA], schedules=[schedule(cron="0 0 1 1 *")]):
        assert await next_at(database) > datetime.now(UTC)

    assert not await started(database)


async def test_a_changed_schedule_begins_in_the_future(database: str) -> None:
    await planned_ago(database, 20, cron="*/2 * * * *")

    async with Orchestrator(database, [SAGA], schedules=[schedule(cron="0 0 1 1 *")]):
        assert await next_at(database) > datetime.now(UTC)

    assert not await started(database)


async def test_slots_older_than_catch_up_are_skipped_and_told(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = await planned_ago(database, 60)
    given = schedule(catch_up=timedelta(minutes=10))

    async with Orchestrator(database, [SAGA], schedules=[given], settings=QUICK):
        await until(database, CAUGHT_UP)

    found = await started(database)
    assert found == minutes_between(found[0], await next_at(database))
    assert 10 <= len(found) <= 12
    assert f"slots_skipped schedule=minutely since={first.isoformat()}" in caplog.text


async def test_without_catch_up_a_slot_that_is_on_time_is_started(database: str) -> None:
    await planned_ago(database, 60)
    given = schedule(catch_up=0)

    async with Orchestrator(database, [SAGA], schedules=[given], settings=QUICK):
        await until(database, CAUGHT_UP)

    assert 1 <= len(await started(database)) <= 2


async def test_a_slot_without_a_context_is_skipped_and_told(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = await planned_ago(database, 5)

    def context(slot: datetime) -> Any:
        if slot == first:
            raise LookupError("no such report")
        return {"amount": "much"} if slot == first + MINUTE else {"order_id": slot.isoformat()}

    given = schedule(context=context)
    async with Orchestrator(database, [SAGA], schedules=[given], settings=QUICK):
        await until(database, CAUGHT_UP)

    assert (await started(database))[0] == first + 2 * MINUTE
    assert caplog.text.count("slot_without_context") == 2
    assert "no such report" in caplog.text


def test_a_context_is_made_for_the_slot_in_its_timezone() -> None:
    def context(slot: datetime) -> Order:
        return Order(order_id=slot.isoformat())

    given = schedule(timezone="Asia/Tokyo", context=context)
    slot = datetime(2027, 1, 1, tzinfo=UTC)

    assert given.input_at(slot)["order_id"] == "2027-01-01T09:00:00+09:00"


# -- one transaction -----------------------------------------------------------------------


def start_for(given: Schedule, slot: datetime) -> Start:
    return prepare(
        SAGA,
        given.input_at(slot),
        at=slot,
        key=given.key(slot),
        correlation_id=None,
        tenant=None,
        begin=False,
    )


async def due(database: str, store: PostgresStore) -> tuple[Schedule, Planned]:
    await planned_ago(database, 1)
    (planned,) = await store.planned(["minutely"])
    return schedule(), planned


async def test_a_commit_that_fails_leaves_neither_saga_nor_next_slot(
    database: str, store: PostgresStore
) -> None:
    given, planned = await due(database, store)
    following = given.next_after(planned.slot)
    await run_sql(
        database,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'power cut'; END $$",
        "CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON eventsaga.schedules"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    )

    with pytest.raises(DatabaseUnavailableError, match="power cut"):
        await store.start_slot(planned, start_for(given, planned.slot), following)

    assert await started(database) == []
    assert await next_at(database) == planned.slot
    await run_sql(database, "DROP TRIGGER at_commit ON eventsaga.schedules")
    again = await store.start_slot(planned, start_for(given, planned.slot), following)
    assert isinstance(again, Started)
    assert again.created
    assert await started(database) == [planned.slot]
    assert await next_at(database) == following


async def test_a_slot_that_another_worker_is_starting_is_left_to_it(
    database: str, store: PostgresStore
) -> None:
    given, planned = await due(database, store)
    other = await asyncpg.connect(database)
    async with other.transaction():
        await other.execute("SELECT FROM eventsaga.schedules FOR UPDATE")

        result = await store.start_slot(planned, start_for(given, planned.slot), planned.now)

    await other.close()
    assert result is None
    assert await next_at(database) == planned.slot


async def test_a_slot_is_not_started_before_its_time(database: str, store: PostgresStore) -> None:
    slot = await store.now() + timedelta(hours=1)
    await store.plan_schedule(
        uuid4(), "minutely", saga_name="one", cron="* * * * *", timezone="UTC", slot=slot
    )
    (planned,) = await store.planned(["minutely"])

    result = await store.start_slot(planned, start_for(schedule(), slot), slot + MINUTE)

    assert result is None
    assert await next_at(database) == slot


async def test_a_slot_that_is_gone_is_neither_started_nor_skipped(
    database: str, store: PostgresStore
) -> None:
    given, planned = await due(database, store)
    following = given.next_after(planned.slot)
    assert await store.skip_slots(planned, following)

    assert not await store.skip_slots(planned, following + MINUTE)
    assert await store.start_slot(planned, start_for(given, planned.slot), following) is None
    assert await next_at(database) == following


# -- one look ------------------------------------------------------------------------------


def scheduler(store: PostgresStore, *schedules: Schedule) -> Scheduler:
    return Scheduler(store, schedules, DatabaseClock(), uuid4, lambda: None)


async def test_a_slot_whose_key_is_taken_is_passed(
    database: str, store: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    given, planned = await due(database, store)
    async with orchestrating(database, SAGA, worker=False) as orchestrator:
        await orchestrator.start("one", Order(order_id="mine"), key=given.key(planned.slot))

    assert await scheduler(store, given)._look() == 0

    assert await next_at(database) == planned.slot + MINUTE
    assert "slot_refused schedule=minutely" in caplog.text


async def test_a_row_of_another_definition_is_left_while_its_worker_lives(
    database: str, store: PostgresStore
) -> None:
    slot = await planned_ago(database, 0, cron="*/1 * * * *", by=await new_worker(store))

    await scheduler(store, schedule())._look()

    assert await next_at(database) == slot
    assert not await started(database)


@pytest.mark.parametrize(("minutes", "planner_lives"), [(0, False), (5, True)])
async def test_a_row_of_another_definition_is_taken_over_once_nobody_keeps_it(
    database: str, store: PostgresStore, minutes: int, *, planner_lives: bool
) -> None:
    """An old process that restarts during a deployment must not leave the schedule behind."""
    planner = await new_worker(store) if planner_lives else None
    await planned_ago(database, minutes, cron="*/1 * * * *", by=planner)

    await scheduler(store, schedule())._look()

    assert await until(database, "SELECT cron FROM eventsaga.schedules") == "* * * * *"
    assert not await started(database)


async def test_a_slot_that_cannot_be_started_does_not_hold_up_the_others(
    database: str, store: PostgresStore
) -> None:
    await planned_ago(database, 5)
    await run_sql(
        database,
        "INSERT INTO eventsaga.schedules SELECT 'other', saga_name, cron, timezone,"
        " next_at + interval '1 minute', worker_id FROM eventsaga.schedules",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON eventsaga.schedules FOR EACH ROW"
        " WHEN (old.name = 'minutely') EXECUTE FUNCTION refuse()",
    )

    with pytest.raises(DatabaseUnavailableError, match="not this one"):
        await scheduler(store, schedule(), schedule("other"))._look()

    keys = await until(
        database, "SELECT array_agg(split_part(key, '/', 2)) FROM eventsaga.start_keys"
    )
    assert keys == ["other"]


async def test_the_loop_outlives_a_database_that_is_away(
    database: str, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await planned_ago(database, 1)
    planned, away = store.planned, [DatabaseUnavailableError("away")]

    async def sometimes(names: Any) -> list[Planned]:
        if away:
            raise away.pop()
        return await planned(names)

    monkeypatch.setattr(store, "planned", sometimes)
    loop = scheduler(store, schedule())
    await loop.open()
    await until(database, CAUGHT_UP)
    await loop.close()

    assert not away
