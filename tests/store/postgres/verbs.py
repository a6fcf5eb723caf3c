"""Which statements are there, beside appends, starts and claims? Each with what it must have done.

They are tried one by one against every loss and every way in which a backend can end.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from eventsaga.store.ports import GivenUp, Reply
from eventsaga.store.postgres.store import PostgresStore
from tests.store.builders import (
    LEASE,
    ORDER,
    ORDERS,
    Held,
    dismissal,
    key_of,
    new_message,
    new_worker,
    start_saga,
)


@dataclass(frozen=True, kw_only=True)
class World:
    """What every verb finds: a worker with a saga that has one request in its inbox."""

    worker: UUID
    held: Held
    request: UUID
    newcomer: UUID
    posted: UUID
    at: datetime


async def new_world(store: PostgresStore) -> World:
    """Prepare what the verbs need."""
    worker = await new_worker(store)
    world = World(
        worker=worker,
        held=await start_saga(store, worker),
        request=uuid4(),
        newcomer=uuid4(),
        posted=uuid4(),
        at=await store.now(),
    )
    await store.post(new_message(world.held.saga_id, message_id=world.request))
    return world


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One method of the store.

    Attributes:
        name: Of the method.
        text: Part of its statement, and of no other.
        table: One that it cannot do without.
        call: Calls it.
        answers: Whether an answer is right; the verb may have been sent twice.
        after: A query that is true if it took effect, and once.
    """

    name: str
    text: str
    table: str
    call: Callable[[PostgresStore, World], Awaitable[Any]]
    answers: Callable[[Any], bool]
    after: str = "SELECT true"


VERBS: Final = (
    Verb(
        name="register_worker",
        text="INSERT INTO eventsaga.workers",
        table="workers",
        call=lambda store, world: store.register_worker(world.newcomer, LEASE, ORDERS),
        answers=lambda now: now is not None,
        after="SELECT count(*) = 2 FROM eventsaga.workers",
    ),
    Verb(
        name="neighbours",
        text="starts_with",
        table="workers",
        call=lambda store, _: store.neighbours("elsewhere"),
        answers=lambda neighbours: neighbours == [],
    ),
    Verb(
        name="end_leases",
        text="worker_id = ANY",
        table="workers",
        call=lambda store, world: store.end_leases([world.worker]),
        answers=lambda nothing: nothing is None,
        after="SELECT lease_until <= clock_timestamp() FROM eventsaga.workers",
    ),
    Verb(
        name="renew",
        text="renewed AS",
        table="workers",
        call=lambda store, world: store.renew(world.worker, 10 * LEASE),
        answers=lambda renewal: renewal.granted,
        after="SELECT lease_until > clock_timestamp() + interval '1 h' FROM eventsaga.workers",
    ),
    Verb(
        name="release",
        text="freed AS",
        table="sagas",
        call=lambda store, world: store.release(world.worker),
        answers=lambda freed: freed in (0, 1),
        after="SELECT owner IS NULL AND wake_at <= clock_timestamp() FROM eventsaga.sagas",
    ),
    Verb(
        name="see_incarnation",
        text="INSERT INTO eventsaga.incarnations",
        table="incarnations",
        call=lambda store, _: store.see_incarnation(),
        answers=lambda seen: seen.is_accepted and seen.held == 0,
        after="SELECT count(*) = 1 FROM eventsaga.incarnations",
    ),
    Verb(
        name="incarnation",
        text="AS held",
        table="incarnations",
        call=lambda store, _: store.incarnation(),
        answers=lambda seen: seen.is_accepted,
    ),
    Verb(
        name="accept_incarnation",
        text="WITH accepted AS",
        table="incarnations",
        call=lambda store, _: store.accept_incarnation("ada", "compared"),
        answers=lambda let_go: let_go == 0,
        after="SELECT count(*) = 1 FROM eventsaga.incarnations",
    ),
    Verb(
        name="register_definitions",
        text="INSERT INTO eventsaga.definitions",
        table="definitions",
        call=lambda store, _: store.register_definitions({key_of(ORDER): ORDER.shape()}),
        answers=lambda nothing: nothing is None,
        after="SELECT count(*) = 1 FROM eventsaga.definitions",
    ),
    Verb(
        name="load_owned",
        text="NULL::uuid AS previous_owner",
        table="sagas",
        call=lambda store, world: store.load_owned(world.worker, []),
        answers=lambda sagas: len(sagas[0].history) == 2,
    ),
    Verb(
        name="load_owned (histories)",
        text="ORDER BY saga_id, seq",
        table="events",
        call=lambda store, world: store.load_owned(world.worker, []),
        answers=lambda sagas: len(sagas[0].history) == 2,
    ),
    Verb(
        name="give_up",
        text="AS g(saga_id, wake_at, seq)",
        table="sagas",
        call=lambda store, world: store.give_up(
            world.worker, [GivenUp(world.held.saga_id, world.at)]
        ),
        answers=lambda nothing: nothing is None,
        after="SELECT owner IS NULL AND wake_at <= clock_timestamp() FROM eventsaga.sagas",
    ),
    Verb(
        name="read_mail",
        text="ORDER BY i.created_at",
        table="inbox",
        call=lambda store, world: store.read_mail(world.worker, 10),
        answers=lambda messages: [message.kind for message in messages] == ["cancel"],
    ),
    Verb(
        name="post",
        text="INSERT INTO eventsaga.inbox",
        table="inbox",
        call=lambda store, world: store.post(
            new_message(world.held.saga_id, message_id=world.posted)
        ),
        answers=lambda is_left: is_left is True,
        after="SELECT count(*) = 2 FROM eventsaga.inbox",
    ),
    Verb(
        name="sweep",
        text="WHERE answered_at <",
        table="inbox",
        call=lambda store, _: store.sweep(),
        answers=lambda nothing: nothing is None,
        after="SELECT count(*) = 1 FROM eventsaga.inbox",
    ),
    Verb(
        name="dismiss_mail",
        text="AS d(saga_id, id, reason, seq, posted_at)",
        table="inbox",
        call=lambda store, world: store.dismiss_mail(
            world.worker, [dismissal(world.held, world.request, "no")]
        ),
        answers=lambda nothing: nothing is None,
        after="SELECT refused = 'no' FROM eventsaga.inbox",
    ),
    Verb(
        name="answer",
        text="AS is_open",
        table="inbox",
        call=lambda store, world: store.answer(world.held.saga_id, world.request),
        answers=lambda answer: answer.reply is Reply.OPEN,
    ),
    Verb(
        name="children",
        text="WHERE parent_id = $1::uuid",
        table="sagas",
        call=lambda store, world: store.children(world.held.saga_id),
        answers=lambda rows: rows == [],
    ),
    Verb(
        name="conflicting",
        text="AS d(name, version, fingerprint))",
        table="sagas",
        call=lambda store, _: store.conflicting([("order", 1, "beef")]),
        answers=lambda found: found == [(ORDERS[0], 1)],
    ),
    Verb(
        name="graph",
        text="SELECT graph FROM",
        table="definitions",
        call=lambda store, _: store.graph(ORDERS[0]),
        answers=lambda graph: graph is None,
    ),
    Verb(
        name="get",
        text="WHERE saga_id = $1::uuid",
        table="sagas",
        call=lambda store, world: store.get(world.held.saga_id),
        answers=lambda row: row.last_seq == 2,
    ),
    Verb(
        name="list_sagas",
        text="IS NULL OR correlation_id =",
        table="sagas",
        call=lambda store, _: store.list_sagas(),
        answers=lambda rows: len(rows) == 1,
    ),
    Verb(
        name="history",
        text="ORDER BY seq",
        table="events",
        call=lambda store, world: store.history(world.held.saga_id),
        answers=lambda events: len(events) == 2,
    ),
    Verb(
        name="settled",
        text="status IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'PARKED')",
        table="sagas",
        call=lambda store, world: store.settled([world.held.saga_id]),
        answers=lambda settled: settled == set(),
    ),
    Verb(
        name="stranded",
        text="brought AS",
        table="sagas",
        call=lambda store, _: store.stranded(),
        answers=lambda stranded: stranded == [],
    ),
)

HURRY: Final = timedelta(seconds=0.8)
"""A statement timeout for tests that wait for it."""
