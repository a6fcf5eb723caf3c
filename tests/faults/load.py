"""What runs while something breaks, and was it right? Sagas over HTTP, held against a ledger.

Every test of this folder ends in `Load.judged`: all sagas have settled as they had to, nothing
that was acknowledged is missing, the tables keep every invariant, and the other side has done
each operation once, under one key.
"""

import asyncio
import os
import random
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final
from uuid import UUID

import pytest

from eventsaga import Orchestrator, Settings, Status
from eventsaga.client.verify import verify
from eventsaga.core.events import StepFailed
from eventsaga.store.invariants import Effect, Ledger
from tests.acceptance.crash.checker import violations
from tests.acceptance.crash.crew import Crew
from tests.acceptance.crash.participant import Call, Participant, dump
from tests.acceptance.crash.program import LAST, STEPS, Work, crash_saga

QUICK: Final = Settings(poll=timedelta(seconds=0.2), statement_timeout=timedelta(seconds=5))
LEFT_OUT: Final = "LEFT OUT"

# Where Debian keeps what an ordinary user's PATH does not name.
_PATH: Final = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
# One saga in so many is declined at its last step, and goes back.
_DECLINED: Final = 5


def program(name: str, package: str) -> str:
    """Return the path of a program; without it the test is left out, loudly."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        pytest.skip(f"{LEFT_OUT}: there is no program {name!r} here (apt-get install {package})")
    return found


def dice() -> random.Random:
    """Return a source of chance; its seed is shown with a failed test, and can be set."""
    seed = int(os.environ.get("FAULTS_SEED", "0")) or secrets.randbits(32)
    print(f"FAULTS_SEED={seed}")  # noqa: T201 - how to see the same again
    return random.Random(seed)  # noqa: S311 - moments, not secrets


async def doomed(crew: Crew) -> asyncio.subprocess.Process:
    """Start a worker that may be dead before it says that it is ready."""
    try:
        return await crew.hire()
    except AssertionError:
        return crew.processes[-1]


class Load:
    """Sagas that are started, counted while they run, and judged in the end.

    Args:
        client: Starts them; it has no worker.
        participant: The other side, in the test's own process.

    Attributes:
        acked: The saga of each number whose start was acknowledged.
        swallowed: Numbers of sagas whose requests take no effect and are never answered.
    """

    def __init__(self, client: Orchestrator, participant: Participant) -> None:
        self.client = client
        self.participant = participant
        self.acked: dict[int, UUID] = {}
        self.swallowed: set[int] = set()
        self._arrived = asyncio.Condition()
        self._open = asyncio.Event()
        self._room = 0
        self.release()
        participant.before = self._arrive

    async def _arrive(self, call: Call) -> None:
        async with self._arrived:
            self._arrived.notify_all()
        if call.number in self.swallowed:
            await asyncio.Event().wait()
        if len(self.participant.calls) > self._room:
            await self._open.wait()

    def hold(self, count: int) -> None:
        """Let so many more requests pass, and let those after them wait for `release`.

        So the fault that follows finds sagas under way, however fast the machine is.
        """
        self._room = len(self.participant.calls) + count
        self._open.clear()

    async def held(self, *, seconds: float = 60) -> None:
        """Return when somebody waits for `release`."""
        async with asyncio.timeout(seconds), self._arrived:
            await self._arrived.wait_for(lambda: len(self.participant.calls) > self._room)

    def release(self) -> None:
        """Let all requests pass again."""
        self._open.set()

    async def start(self, numbers: Iterable[int], *, again: bool = False) -> None:
        """Start a saga for each number, under a key; on return all are acknowledged.

        Args:
            numbers: Of the sagas.
            again: Whether their starts may have been lost, so that they are sent again.
        """
        wanted = list(numbers)
        self.participant.declined |= {(LAST, number) for number in wanted if _is_declined(number)}
        handles = await self.client.start_many(
            crash_saga,
            [Work(number=number) for number in wanted],
            keys=[f"order-{number}" for number in wanted],
        )
        for number, handle in zip(wanted, handles, strict=True):
            known = self.acked.setdefault(number, handle.id)
            assert again or known == handle.id, "one key, two sagas"
            self.acked[number] = handle.id

    async def calls(self, count: int, *, seconds: float = 60) -> None:
        """Return when so many more requests have arrived at the other side."""
        wanted = len(self.participant.calls) + count
        async with asyncio.timeout(seconds), self._arrived:
            await self._arrived.wait_for(lambda: len(self.participant.calls) >= wanted)

    async def call_of(self, number: int, *, seconds: float = 60) -> None:
        """Return when a request of this saga has arrived at the other side."""
        async with asyncio.timeout(seconds), self._arrived:
            await self._arrived.wait_for(
                lambda: any(call.number == number for call in self.participant.calls)
            )

    def repeated(self, *operations: str) -> int:
        """Return how many operations were asked for more than once under their keys."""
        wanted = operations or ("do", "undo")
        asked = Counter(call.key for call in self.participant.calls if call.operation in wanted)
        return sum(1 for times in asked.values() if times > 1)

    async def judged(
        self,
        *,
        seconds: float = 90,
        parked: Iterable[int] = (),
        orphans: Iterable[UUID] = (),
    ) -> None:
        """Wait until all sagas have settled, and see that all of it is right.

        Args:
            seconds: The longest wait.
            parked: Sagas that must be parked.
            orphans: Sagas that a failover lost as a whole; others now have their keys.
        """
        parked = tuple(parked)
        expected = {number: _expected(number) for number in self.acked}
        expected |= dict.fromkeys(parked, Status.PARKED)
        try:
            async with asyncio.timeout(seconds):
                found = await self._statuses()
        except TimeoutError:
            found = {row.saga_id: Status(row.status) for row in await self.client.list(limit=1000)}
        wrong = {
            number: (found.get(saga_id, "missing"), expected[number])
            for number, saga_id in self.acked.items()
            if found.get(saga_id) is not expected[number]
        }
        assert wrong == {}, f"{wrong}\n{dump(self.participant)}"
        # That checker knows takeovers only; whoever parks a poisoned saga takes no step over.
        claimers = tuple(f"{self.acked[number]}: event" for number in parked)
        found_by_checker = [
            violation
            for violation in await violations(self.client, self.participant)
            if not (claimers and violation.startswith(claimers))
        ]
        assert found_by_checker == []
        assert await self._broken(set(orphans)) == []
        await self._nobody_is_blamed()

    async def _statuses(self) -> dict[UUID, Status]:
        waits = (self.client.wait(saga_id) for saga_id in self.acked.values())
        return {state.saga_id: state.status for state in await asyncio.gather(*waits)}

    async def _broken(self, orphans: set[UUID]) -> list[str]:
        """Return which invariants do not hold, given the definition and the ledger."""
        effects = [
            Effect.of_key(key)
            for (operation, step, number), keys in self.participant.applied.items()
            for key in keys
            # To undo what was never done is no effect.
            if operation == "do" or self.participant.applied.get(("do", step, number))
        ]
        ledger = Ledger(
            [effect for effect in effects if effect.saga_id not in orphans],
            covers={*STEPS, LAST},
        )
        found = verify(
            self.client.store,
            definitions=[crash_saga.definition],
            ledger=ledger,
            grace=timedelta(seconds=30),
        )
        return [str(violation) async for violation in found]

    async def _nobody_is_blamed(self) -> None:
        """See that no step failed but those that the other side declined."""
        for number, saga_id in self.acked.items():
            failed = Counter(
                stored.event.step
                for stored in await self.client.history(saga_id)
                # Of an attempt that was taken back before it began nobody is to blame either.
                if isinstance(stored.event, StepFailed) and not stored.event.interrupted
            )
            assert set(failed) <= ({LAST} if _is_declined(number) else set()), failed


def _is_declined(number: int) -> bool:
    return number % _DECLINED == _DECLINED - 1


def _expected(number: int) -> Status:
    return Status.COMPENSATED if _is_declined(number) else Status.COMPLETED


@asynccontextmanager
async def loading(
    database: str, participant: Participant, settings: Settings = QUICK
) -> AsyncGenerator[Load]:
    """Lend a load on *database*."""
    async with Orchestrator(
        database, sagas=[crash_saga], worker=False, settings=settings
    ) as client:
        yield Load(client, participant)
