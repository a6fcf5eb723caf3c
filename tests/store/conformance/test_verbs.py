"""Is the store in memory as good as PostgreSQL, verb by verb?"""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from eventsaga.core.state import Status
from eventsaga.errors import KeyConflictError
from eventsaga.store.ports import (
    Committed,
    Fenced,
    GivenUp,
    Message,
    Refused,
    Reply,
    Started,
)
from eventsaga.store.projection import project
from tests.store.builders import (
    ORDER,
    ORDERS,
    advance,
    definition_of,
    dismissal,
    failure_of,
    hold,
    key_of,
    new_append,
    new_message,
    new_start,
    new_worker,
    park,
    queue_append,
    queue_start,
    retry,
    start_saga,
    start_sagas,
)
from tests.store.conformance.conftest import World

LONG = timedelta(minutes=10)
OTHER = definition_of("only", name="other")
SINCE = datetime(2026, 1, 1, tzinfo=UTC)


# -- starting ---------------------------------------------------------------------------------


async def test_a_key_starts_one_saga_and_another_input_is_a_conflict(world: World) -> None:
    first = await queue_start(world.store, new_start(key="k"))
    again = await queue_start(world.store, new_start(key="k"))
    other = await queue_start(world.store, new_start(key="k", context={"order_id": "o-2"}))

    assert isinstance(first, Started)
    assert first.created
    assert again == Started(first.saga_id, created=False)
    assert isinstance(other, Refused)
    assert isinstance(other.error, KeyConflictError)


async def test_an_id_that_exists_is_not_started_again(world: World) -> None:
    parent = await start_saga(world.store)
    lineage = (parent.saga_id, "child")

    one, two = await asyncio.gather(
        queue_start(world.store, new_start(parent=lineage)),
        queue_start(world.store, new_start(parent=lineage)),
    )

    assert isinstance(one, Started)
    assert isinstance(two, Started)
    assert one.saga_id == two.saga_id
    assert sorted([one.created, two.created]) == [False, True]
    (child,) = await world.store.children(parent.saga_id)
    assert (child.parent_id, child.parent_step) == lineage


# -- appending --------------------------------------------------------------------------------


async def test_an_append_moves_the_row_as_the_events_say(world: World) -> None:
    worker = await new_worker(world.store)
    held = await start_saga(world.store, worker)
    assert isinstance(await advance(world.store, held, worker), Committed)
    assert isinstance(await advance(world.store, held, worker, failure_of("charge")), Committed)

    row = await world.store.get(held.saga_id)
    history = await world.store.history(held.saga_id)
    fold = project(held.saga_id, [stored.event for stored in history])

    assert (
        (row.status, row.last_seq)
        == (fold.status, fold.last_seq)
        == (
            Status.COMPENSATING,
            held.state.seq,
        )
    )
    assert row.current_steps == fold.current_steps
    assert row.error is not None
    assert history[-1].hash == held.last_hash
    assert [stored.worker_id for stored in history] == [worker] * len(history)


async def test_only_the_owner_at_the_expected_number_appends(world: World) -> None:
    worker, stranger = await new_worker(world.store), await new_worker(world.store)
    held = await start_saga(world.store, worker)
    append, again = new_append(held), new_append(held)

    foreign = await queue_append(world.store, new_append(held), stranger)
    taken = await queue_append(world.store, append, worker)
    late = await queue_append(world.store, again, worker)

    assert isinstance(foreign, Fenced)
    assert isinstance(taken, Committed)
    assert isinstance(late, Fenced)
    assert len(await world.store.history(held.saga_id)) == append.state.seq


async def test_a_released_saga_is_due_when_it_says(world: World) -> None:
    worker = await new_worker(world.store)
    held = await start_saga(world.store, worker)
    later = datetime.now(UTC) + timedelta(days=1)

    await advance(world.store, held, worker, release=True, wake_at=later)

    row = await world.store.get(held.saga_id)
    assert (row.owner, row.wake_at) == (None, later)
    assert await world.store.claim(worker, ORDERS, 10) == []


async def test_a_parked_saga_that_goes_on_shows_no_error(world: World) -> None:
    worker = await new_worker(world.store)
    held = await start_saga(world.store, worker)
    await advance(world.store, held, worker, park(), release=False)
    parked = await world.store.get(held.saga_id)
    await advance(world.store, held, worker, retry())
    row = await world.store.get(held.saga_id)

    assert parked.status is Status.PARKED
    assert parked.error is not None
    assert await world.store.settled([held.saga_id]) == set()
    assert (row.status, row.error) == (Status.RUNNING, None)


# -- leases and claims ------------------------------------------------------------------------


async def test_a_lease_that_ended_is_not_renewed_and_its_sagas_are_taken(world: World) -> None:
    dead, heir = await new_worker(world.store), await new_worker(world.store)
    held = await start_saga(world.store, dead)
    assert (await world.store.renew(dead, LONG)).granted
    assert await world.store.claim(heir, ORDERS, 10) == []

    await world.expire(dead)
    renewal = await world.store.renew(dead, LONG)
    (claimed,) = await world.store.claim(heir, ORDERS, 10)

    assert not renewal.granted
    assert (claimed.saga_id, claimed.previous_owner, claimed.claims) == (held.saga_id, dead, 1)
    assert hold(claimed).state == held.state
    assert isinstance(await advance(world.store, held, dead), Fenced)


async def test_who_has_no_lease_is_given_nothing(world: World) -> None:
    worker = await new_worker(world.store)
    await start_saga(world.store)
    await world.expire(worker)

    assert await world.store.claim(worker, ORDERS, 10) == []


async def test_a_worker_that_leaves_frees_its_sagas_at_once(world: World) -> None:
    leaving, heir = await new_worker(world.store), await new_worker(world.store)
    await start_sagas(world.store, leaving, 3)

    assert await world.store.release(leaving) == 3
    claimed = await world.store.claim(heir, ORDERS, 10)

    assert {saga.previous_owner for saga in claimed} == {None}
    assert len(claimed) == 3


async def test_only_known_definitions_are_claimed(world: World) -> None:
    worker = await new_worker(world.store)
    await start_saga(world.store, definition=OTHER)

    assert await world.store.claim(worker, ORDERS, 10) == []
    assert len(await world.store.claim(worker, (key_of(OTHER),), 10)) == 1


async def test_each_name_has_its_share_of_a_claim(world: World) -> None:
    worker = await new_worker(world.store, (*ORDERS, key_of(OTHER)))
    await start_sagas(world.store, None, 20)
    late = await start_saga(world.store, definition=OTHER)

    claimed = await world.store.claim(worker, (*ORDERS, key_of(OTHER)), 4)

    assert late.saga_id in {saga.saga_id for saga in claimed}
    assert len(claimed) == 4


async def test_a_higher_priority_goes_first(world: World) -> None:
    worker = await new_worker(world.store, (*ORDERS, key_of(OTHER)))
    await start_sagas(world.store, None, 5)
    urgent = [await start_saga(world.store, definition=OTHER) for _ in range(3)]

    claimed = await world.store.claim(worker, (*ORDERS, key_of(OTHER)), 3, priorities={"other": 1})

    assert {saga.saga_id for saga in claimed} == {held.saga_id for held in urgent}


async def test_no_more_of_a_name_are_held_than_may_run(world: World) -> None:
    one, two = await new_worker(world.store), await new_worker(world.store)
    await start_sagas(world.store, None, 9)
    limit = {"order": 5}

    first = await world.store.claim(one, ORDERS, 3, max_running=limit)
    second = await world.store.claim(two, ORDERS, 9, max_running=limit)

    assert (len(first), len(second)) == (3, 2)


async def test_what_is_given_up_is_due_when_it_says_or_never(world: World) -> None:
    worker = await new_worker(world.store)
    now, never = await start_sagas(world.store, worker, 2)

    await world.store.give_up(worker, [GivenUp(now.saga_id, SINCE), GivenUp(never.saga_id, None)])
    claimed = await world.store.claim(worker, ORDERS, 10)

    assert [saga.saga_id for saga in claimed] == [now.saga_id]
    assert (await world.store.get(never.saga_id)).wake_at is None


async def test_what_a_lost_answer_granted_is_found_by_its_owner(world: World) -> None:
    worker = await new_worker(world.store)
    known, lost = await start_sagas(world.store, worker, 2)

    (found,) = await world.store.load_owned(worker, [known.saga_id])

    assert found.saga_id == lost.saga_id


async def test_a_saga_that_has_gone_on_is_not_given_up_any_more(world: World) -> None:
    worker = await new_worker(world.store)
    held = await start_saga(world.store, worker)
    late = GivenUp(held.saga_id, None, held.state.seq)
    await advance(world.store, held, worker)

    await world.store.give_up(worker, [late])

    (still,) = await world.store.load_owned(worker, [])
    assert still.saga_id == held.saga_id


# -- mail -------------------------------------------------------------------------------------


async def test_the_same_message_is_left_once_and_deleted_with_its_events(world: World) -> None:
    worker = await new_worker(world.store)
    held = await start_saga(world.store, worker)
    message = new_message(held.saga_id)

    assert await world.store.post(message)
    assert await world.store.post(message)
    (read,) = await world.store.read_mail(worker, 10)
    opened = await world.store.answer(held.saga_id, message.message_id)
    await advance(world.store, held, worker, inbox=(message.message_id,))
    taken = await world.store.answer(held.saga_id, message.message_id)

    assert read == message
    assert (opened.reply, taken.reply) == (Reply.OPEN, Reply.TAKEN)
    assert await world.store.read_mail(worker, 10) == []


async def test_a_refusal_is_told_to_whoever_asks_and_not_read_again(world: World) -> None:
    worker = await new_worker(world.store)
    held = await start_saga(world.store, worker)
    message = new_message(held.saga_id)
    await world.store.post(message)

    await world.store.dismiss_mail(worker, [dismissal(held, message.message_id, "no")])
    unread = await world.store.read_mail(worker, 10)
    # Twice: the first answer may be lost on its way.
    told = [await world.store.answer(held.saga_id, message.message_id) for _ in range(2)]

    assert unread == []
    assert [(answer.reply, answer.reason) for answer in told] == [(Reply.REFUSED, "no")] * 2


async def test_a_worker_that_lost_its_saga_answers_none_of_its_requests(world: World) -> None:
    """It was paused, and read what concerns a state that it does not know."""
    loser = await new_worker(world.store)
    held = await start_saga(world.store, loser)
    message = new_message(held.saga_id)
    await world.store.post(message)
    known = [dismissal(held, message.message_id, reason) for reason in (None, "no")]
    await world.store.give_up(loser, [GivenUp(held.saga_id, SINCE)])
    owner = await new_worker(world.store)
    await world.store.claim(owner, ORDERS, 10)
    await advance(world.store, held, owner)

    await world.store.dismiss_mail(loser, known)

    assert [read.message_id for read in await world.store.read_mail(owner, 10)] == [
        message.message_id
    ]


async def test_what_was_decided_of_the_last_state_holds_though_the_saga_was_released(
    world: World,
) -> None:
    worker = await new_worker(world.store)
    held = await start_saga(world.store, worker)
    message = new_message(held.saga_id)
    await world.store.post(message)
    await world.store.give_up(worker, [GivenUp(held.saga_id, None)])

    await world.store.dismiss_mail(worker, [dismissal(held, message.message_id)])

    assert (await world.store.answer(held.saga_id, message.message_id)).reply is Reply.TAKEN


async def test_what_was_refused_can_be_asked_anew(world: World) -> None:
    worker = await new_worker(world.store)
    held = await start_saga(world.store, worker)
    message = new_message(held.saga_id)
    await world.store.post(message)
    (first,) = await world.store.read_mail(worker, 10)
    await world.store.dismiss_mail(worker, [dismissal(held, message.message_id, "no")])

    await world.store.post(message)
    (anew,) = await world.store.read_mail(worker, 10)

    assert anew == first
    assert first.posted_at is not None
    assert anew.posted_at is not None
    # By this a reader tells it from what it has answered already.
    assert anew.posted_at > first.posted_at


async def test_mail_wakes_a_saga_that_sleeps_and_one_that_is_parked(world: World) -> None:
    worker = await new_worker(world.store)
    asleep, parked = await start_sagas(world.store, worker, 2)
    far = datetime.now(UTC) + timedelta(days=9)
    await advance(world.store, asleep, worker, release=True, wake_at=far)
    await advance(world.store, parked, worker, park())
    assert await world.store.claim(worker, ORDERS, 10) == []

    for held in (asleep, parked):
        await world.store.post(new_message(held.saga_id))
    claimed = await world.store.claim(worker, ORDERS, 10)

    assert {saga.saga_id for saga in claimed} == {asleep.saga_id, parked.saga_id}


async def test_messages_go_out_with_the_commit_and_only_with_it(world: World) -> None:
    worker, stranger = await new_worker(world.store), await new_worker(world.store)
    held, other = await start_sagas(world.store, worker, 2)
    letter, nowhere = new_message(other.saga_id), new_message(uuid4())
    fenced = new_append(held, outbox=(letter,))

    assert isinstance(await queue_append(world.store, fenced, stranger), Fenced)
    assert await world.store.read_mail(worker, 10) == []
    await advance(world.store, held, worker, outbox=(letter, nowhere))

    assert await world.store.read_mail(worker, 10) == [letter]


async def test_nobody_can_be_written_to_who_does_not_exist(world: World) -> None:
    message: Message = new_message(UUID(int=7))
    assert not await world.store.post(message)


# -- limits and definitions -------------------------------------------------------------------


async def test_permits_are_counted_over_all_living_workers(world: World) -> None:
    one, two = await new_worker(world.store), await new_worker(world.store)

    async def asked(worker: UUID, wanted: int) -> int:
        grant = await world.store.acquire(
            worker, "k", wanted, concurrency=3, interval=None, burst=1
        )
        permits: int = grant.permits
        return permits

    assert [await asked(one, 2), await asked(two, 2), await asked(two, 1)] == [2, 1, 0]
    await world.store.release_permits(two, "k", 1)
    assert await asked(one, 5) == 1
    await world.expire(one)
    assert await asked(two, 5) == 3


async def test_a_rate_lets_a_burst_through_and_names_the_next_instant(world: World) -> None:
    worker = await new_worker(world.store)
    hour = timedelta(hours=1)

    first = await world.store.acquire(worker, "k", 5, concurrency=None, interval=hour, burst=2)
    second = await world.store.acquire(worker, "k", 5, concurrency=None, interval=hour, burst=2)

    assert (first.permits, second.permits) == (2, 0)
    assert second.retry_at is not None
    wait = second.retry_at - await world.store.now()
    assert timedelta(minutes=59) < wait <= hour


async def test_a_shape_under_the_same_version_is_a_conflict(world: World) -> None:
    held = await start_saga(world.store)
    changed = definition_of("another")
    await world.store.register_definitions({key_of(ORDER): ORDER.shape()})

    conflicts = await world.store.conflicting([key_of(changed)])

    assert conflicts == [(key_of(ORDER), 1)]
    assert await world.store.conflicting(list(ORDERS)) == []
    assert await world.store.graph(key_of(ORDER)) == ORDER.shape()
    assert await world.store.graph(key_of(changed)) is None
    assert held.saga_id in {row.saga_id for row in await world.store.list_sagas()}
