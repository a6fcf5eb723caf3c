"""Who may begin? A scripted store says what it grants; the limiter does the queueing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from eventsaga.errors import DatabaseUnavailableError
from eventsaga.runtime.clock import DatabaseClock
from eventsaga.runtime.limits import Limiter
from eventsaga.saga import Limit
from eventsaga.store.ports import Grant
from eventsaga.store.postgres.store import PostgresStore

ONE = Limit("payments", concurrency=1)
TWO = Limit("payments", concurrency=2)
RATE = Limit("mails", interval=timedelta(milliseconds=100))


@dataclass
class Scripted:
    """Counts as the database does, unless the script says what to answer.

    Attributes:
        script: The next answers to `acquire`: raised, if they are errors.
        lost: Whether an answer that is an error was carried out all the same.
    """

    script: list[Grant | Exception] = field(default_factory=list[Grant | Exception])
    lost: bool = False
    asked: list[tuple[UUID, int]] = field(default_factory=list[tuple[UUID, int]])
    released: list[tuple[UUID, int]] = field(default_factory=list[tuple[UUID, int]])
    held: dict[UUID, int] = field(default_factory=dict[UUID, int])
    foreign: int = 0
    gate: asyncio.Event | None = None

    async def acquire(
        self,
        worker_id: UUID,
        key: str,  # noqa: ARG002 - one count for all keys is enough here
        wanted: int,
        *,
        concurrency: int | None,
        interval: timedelta | None,  # noqa: ARG002
        burst: int,  # noqa: ARG002
    ) -> Grant:
        self.asked.append((worker_id, wanted))
        if self.gate is not None:
            await self.gate.wait()
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, Exception) and not self.lost:
            raise answer
        if answer is None or isinstance(answer, Exception):
            free = 1_000 if concurrency is None else concurrency
            granted = max(min(wanted, free - self.foreign - sum(self.held.values())), 0)
        else:
            granted = answer.permits
        if concurrency is not None:
            self.held[worker_id] = self.held.get(worker_id, 0) + granted
        if isinstance(answer, Exception):
            raise answer
        return answer or Grant(permits=granted)

    async def release_permits(self, worker_id: UUID, key: str, permits: int) -> None:  # noqa: ARG002
        self.released.append((worker_id, permits))
        self.held[worker_id] = max(self.held.get(worker_id, 0) - permits, 0)


@dataclass
class Bench:
    """A limiter on a scripted store, and the order in which attempts began."""

    store: Scripted = field(default_factory=Scripted)
    worker_id: UUID = field(default_factory=uuid4)
    began: list[str] = field(default_factory=list[str])
    tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    def __post_init__(self) -> None:
        self.limiter = Limiter(self.store, lambda: self.worker_id, DatabaseClock())

    def attempt(self, name: str, limit: Limit, end: asyncio.Event | None = None) -> asyncio.Event:
        """Begin an attempt that runs until the event it returns is set."""
        over = asyncio.Event() if end is None else end

        async def run() -> None:
            async with self.limiter.permit(limit):
                self.began.append(name)
                await over.wait()

        self.tasks.append(asyncio.create_task(run(), name=name))
        return over

    async def ended(self) -> None:
        """Wait for all attempts, and for their permits to be given back."""
        await asyncio.gather(*self.tasks)
        await until(lambda: not any(self.store.held.values()))


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until *condition* holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the store is no place for the tests' events
            await asyncio.sleep(0.001)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    await made.limiter.aclose()


async def test_attempts_begin_in_the_order_in_which_they_came(bench: Bench) -> None:
    ends = [bench.attempt(name, ONE) for name in "abc"]

    for number, end in enumerate(ends):
        await until(lambda number=number: len(bench.began) == number + 1)  # type: ignore[misc]
        end.set()
    await bench.ended()

    assert bench.began == ["a", "b", "c"]


async def test_a_queue_is_asked_for_in_one_statement_and_given_back_in_few(bench: Bench) -> None:
    end = asyncio.Event()
    for number in range(150):
        bench.attempt(str(number), Limit("wide", concurrency=500), end)

    await until(lambda: len(bench.began) == 150)
    end.set()
    await bench.ended()

    assert [wanted for _, wanted in bench.store.asked] == [100, 50]
    assert sum(permits for _, permits in bench.store.released) == 150
    assert len(bench.store.released) <= 2


async def test_a_local_release_is_used_at_once(bench: Bench) -> None:
    """Not only after a pause, of which the next would be long."""
    bench.store.script = [Grant(permits=1), *[Grant(permits=0)] * 4]
    first = bench.attempt("first", ONE)
    bench.attempt("second", ONE).set()
    await until(lambda: len(bench.store.asked) == 5)

    loop = asyncio.get_running_loop()
    before = loop.time()
    first.set()
    await until(lambda: len(bench.began) == 2)

    assert loop.time() - before < 0.3


async def test_nothing_is_asked_before_the_store_said_so(bench: Bench) -> None:
    retry_at = datetime.now(UTC) + timedelta(seconds=0.3)
    bench.store.script = [Grant(permits=0, retry_at=retry_at), Grant(permits=1)]
    bench.attempt("only", RATE).set()

    await bench.ended()

    assert datetime.now(UTC) >= retry_at - timedelta(milliseconds=20)
    assert len(bench.store.asked) == 2


async def test_permits_of_a_rate_are_not_given_back(bench: Bench) -> None:
    bench.attempt("only", RATE).set()

    await bench.ended()

    assert not bench.store.released


async def test_an_attempt_cancelled_in_the_queue_leaves_no_permit_behind(bench: Bench) -> None:
    first = bench.attempt("first", ONE)
    bench.attempt("cancelled", ONE)
    last = bench.attempt("last", ONE)
    await until(lambda: bench.began == ["first"])

    bench.tasks.pop(1).cancel()
    first.set()
    await until(lambda: bench.began == ["first", "last"])
    last.set()
    await bench.ended()

    assert bench.store.held == {bench.worker_id: 0}


async def test_an_attempt_cancelled_while_it_is_asked_for_leaves_no_permit(bench: Bench) -> None:
    bench.store.gate = asyncio.Event()
    bench.attempt("cancelled", ONE)
    await until(lambda: bool(bench.store.asked))

    bench.tasks.pop().cancel()
    bench.store.gate.set()
    await until(lambda: bool(bench.store.released))
    await bench.ended()

    assert not bench.began


async def test_an_attempt_cancelled_as_it_is_granted_leaves_no_permit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permit is in its hands, but it never begins."""
    bench.store.gate = asyncio.Event()
    bench.attempt("cancelled", ONE)
    task = bench.tasks.pop()
    await until(lambda: bool(bench.store.asked))
    queue = bench.limiter._queues["payments"]
    hand_out = queue._hand_out

    def and_cancel(permits: int, *, counted: bool) -> None:
        hand_out(permits, counted=counted)
        task.cancel()

    monkeypatch.setattr(queue, "_hand_out", and_cancel)
    bench.store.gate.set()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: bool(bench.store.released))

    assert bench.store.held == {bench.worker_id: 0}
    assert not bench.began


async def test_a_failing_attempt_gives_its_permit_back(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError):
        async with bench.limiter.permit(ONE):
            _ = 1 / 0

    await until(lambda: bench.store.held == {bench.worker_id: 0})


@pytest.mark.parametrize("lost", [False, True], ids=["not-done", "answer-lost"])
async def test_a_database_that_is_away_delays_an_attempt(bench: Bench, *, lost: bool) -> None:
    """What an answer that was lost had granted is given back, and asked for anew."""
    bench.store.lost = lost
    bench.store.script = [DatabaseUnavailableError("away")] * 2
    bench.attempt("only", ONE).set()

    await bench.ended()

    assert bench.began == ["only"]


async def test_doubt_waits_for_those_that_run_and_admits_nobody_beyond(bench: Bench) -> None:
    """Giving back while others run could give back theirs."""
    first = bench.attempt("first", TWO)
    await until(lambda: bench.began == ["first"])
    bench.store.lost, bench.store.script = True, [DatabaseUnavailableError("away")]
    second = bench.attempt("second", TWO)
    await until(lambda: not bench.store.script)

    assert bench.began == ["first"]
    first.set()
    await until(lambda: bench.began == ["first", "second"])
    assert bench.store.held == {bench.worker_id: 1}
    second.set()
    await bench.ended()


async def test_a_bug_in_the_store_does_not_end_the_queue(bench: Bench) -> None:
    bench.store.script = [RuntimeError("bug")]
    bench.attempt("only", ONE).set()

    await bench.ended()

    assert bench.began == ["only"]


async def test_permits_of_a_lost_lease_are_forgotten(bench: Bench) -> None:
    previous = bench.worker_id
    old = bench.attempt("old", ONE)
    await until(lambda: bench.began == ["old"])

    bench.worker_id = uuid4()
    bench.store.held.clear()  # they ended with the lease
    new = bench.attempt("new", ONE)
    await until(lambda: bench.began == ["old", "new"])
    old.set()
    new.set()
    await bench.ended()

    assert bench.store.released == [(bench.worker_id, 1)]
    assert [owner for owner, _ in bench.store.asked] == [previous, bench.worker_id]


async def test_what_was_granted_to_a_lost_lease_is_asked_for_anew(bench: Bench) -> None:
    bench.store.gate = asyncio.Event()
    bench.attempt("only", ONE).set()
    await until(lambda: bool(bench.store.asked))
    bench.worker_id = uuid4()
    bench.store.foreign = -1  # the old permit counts no more
    bench.store.gate.set()

    await asyncio.gather(*bench.tasks)
    await until(lambda: bool(bench.store.released))

    assert bench.store.released == [(bench.worker_id, 1)]


async def test_keys_do_not_wait_for_each_other(bench: Bench) -> None:
    bench.attempt("holder", ONE)
    bench.attempt("waits", ONE)
    bench.attempt("other", Limit("other", concurrency=2))

    await until(lambda: len(bench.began) == 2)

    assert set(bench.began) == {"holder", "other"}


async def test_closing_cancels_those_that_wait(bench: Bench) -> None:
    bench.attempt("holder", ONE)
    bench.attempt("waits", ONE)
    await until(lambda: bench.began == ["holder"])

    await bench.limiter.aclose()
    await until(bench.tasks[1].done)

    assert bench.tasks[1].cancelled()


async def _most_at_once(
    limiters: Sequence[Limiter], limit: Limit, attempts: int
) -> tuple[int, int]:
    """Return how many attempts ran at the same time at most, and how many in all."""
    running = most = total = 0

    async def run(permit: AbstractAsyncContextManager[None]) -> None:
        nonlocal running, most, total
        async with permit:
            running += 1
            most, total = max(most, running), total + 1
            await asyncio.sleep(0.002)
            running -= 1

    await asyncio.gather(
        *(run(limiter.permit(limit)) for limiter in limiters for _ in range(attempts))
    )
    return most, total


async def test_two_workers_share_a_limit_in_the_database(store: PostgresStore) -> None:
    owners = [uuid4(), uuid4()]
    for owner in owners:
        await store.register_worker(owner, timedelta(seconds=30), ())
    limiters = [
        Limiter(store, lambda owner=owner: owner, DatabaseClock())  # type: ignore[misc]
        for owner in owners
    ]

    most, total = await _most_at_once(limiters, Limit("shared", concurrency=3), attempts=20)
    for limiter in limiters:
        await limiter.aclose()

    assert most <= 3
    assert total == 40
