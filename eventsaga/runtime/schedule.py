"""Who starts what is due by the calendar? Every worker tries; one transaction decides.

The loop sleeps until the next slot, by the database's clock. Whoever locks the row of a
schedule then starts the slot and moves the row on, in one transaction; the others find the
slot gone. A worker that dies in between has done neither, and the next one does both.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from eventsaga.errors import DatabaseUnavailableError
from eventsaga.observe.log import logger
from eventsaga.runtime.clock import Clock
from eventsaga.runtime.prepare import prepare
from eventsaga.schedule import Schedule
from eventsaga.store.ports import Refused, Start
from eventsaga.store.slots import Planned, SlotStore

_log = logger("schedule")

# A slot that is this late is on time: workers sleep, databases fail over.
_ON_TIME: Final = timedelta(minutes=1)
# The row may be changed by hand, and clocks are set: hence also a look now and then.
_LONGEST_SLEEP: Final = 30.0
_SHORTEST_SLEEP: Final = 0.005
_ANOTHER_LOOK: Final = 0.2
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 5.0
_CLOSE_SECONDS: Final = 10.0


class Scheduler:
    """Starts the slots of some schedules, beside the worker of a process.

    Args:
        store: Where schedules are kept.
        schedules: With different names.
        clock: The database's time.
        worker_id: The identity of this process's worker now.
        started: Called after each start: there is a saga to be claimed.
    """

    def __init__(
        self,
        store: SlotStore,
        schedules: Sequence[Schedule],
        clock: Clock,
        worker_id: Callable[[], UUID],
        started: Callable[[], None],
    ) -> None:
        self._store = store
        self._schedules: Mapping[str, Schedule] = {
            schedule.name: schedule for schedule in schedules
        }
        self._clock = clock
        self._worker_id = worker_id
        self._started = started
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Record the schedules, and begin.

        Raises:
            DatabaseUnavailableError: If the database cannot be reached.
        """
        if not self._schedules:
            return
        for schedule in self._schedules.values():
            await self._plan(schedule)
        self._task = asyncio.create_task(self._watch(), name="eventsaga-schedules")

    async def close(self) -> None:
        """Start nothing more. A transaction that is open is ended first."""
        self._stop.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_CLOSE_SECONDS)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _plan(self, schedule: Schedule) -> None:
        slot = schedule.next_after(await self._store.now())
        await self._store.plan_schedule(
            self._worker_id(),
            schedule.name,
            saga_name=schedule.saga.name,
            cron=schedule.cron,
            timezone=schedule.timezone,
            slot=slot,
        )

    async def _watch(self) -> None:
        """Start what is due, sleep until the next slot, and so on."""
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            try:
                await self._sleep(await self._look())
                pause = _FIRST_PAUSE
            except DatabaseUnavailableError as error:
                _log.warning("schedules_not_read", error=str(error))
                await self._sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
                pause = min(pause * 2, _LONGEST_PAUSE)
            except Exception:  # noqa: BLE001 - one look that fails must not be the last one
                _log.exception("schedules_not_read")
                await self._sleep(_LONGEST_SLEEP)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _look(self) -> float:
        """Start what is due; return how many seconds to sleep then."""
        seconds = _LONGEST_SLEEP
        failed: DatabaseUnavailableError | None = None
        rows = await self._store.planned(tuple(self._schedules))
        for planned in sorted(rows, key=lambda row: row.slot):
            if self._stop.is_set():
                break
            try:
                seconds = min(seconds, await self._look_at(planned))
            except DatabaseUnavailableError as error:
                failed = error  # a slot that cannot be started must not hold up the others
        if failed is not None:
            raise failed
        return seconds

    async def _look_at(self, planned: Planned) -> float:
        schedule = self._schedules[planned.name]
        if (planned.cron, planned.timezone) != (schedule.cron, schedule.timezone):
            await self._contend(schedule, planned)
            return _LONGEST_SLEEP
        if planned.slot <= planned.now:
            return await self._due(schedule, planned)
        return max((planned.slot - self._clock.now()).total_seconds(), _SHORTEST_SLEEP)

    async def _contend(self, schedule: Schedule, planned: Planned) -> None:
        """Leave a row to the worker that came last with another definition, while it lives."""
        if not planned.is_kept or planned.now - planned.slot > _ON_TIME:
            _log.warning("schedule_taken_over", schedule=schedule.name, cron=planned.cron)
            await self._plan(schedule)

    async def _due(self, schedule: Schedule, planned: Planned) -> float:
        """Start, or skip, a slot; return how many seconds to sleep before another look."""
        oldest = planned.now - max(schedule.catch_up, _ON_TIME)
        if planned.slot <= oldest:
            await self._skip(planned, schedule.next_after(oldest))
            return 0
        following = schedule.next_after(planned.slot)
        try:
            start = self._prepared(schedule, planned.slot)
        except Exception as error:  # noqa: BLE001 - the user's function; its next slot may be better
            _log.error(
                "slot_without_context",
                schedule=schedule.name,
                slot=planned.slot.isoformat(),
                exc_info=error,
            )
            await self._store.skip_slots(planned, following)
            return 0
        return await self._start(planned, start, following)

    def _prepared(self, schedule: Schedule, slot: datetime) -> Start:
        return prepare(
            schedule.saga,
            schedule.input_at(slot),
            at=self._clock.now(),
            key=schedule.key(slot),
            correlation_id=None,
            tenant=None,
            begin=False,
        )

    async def _skip(self, planned: Planned, following: datetime) -> None:
        if await self._store.skip_slots(planned, following):
            _log.warning(
                "slots_skipped",
                schedule=planned.name,
                since=planned.slot.isoformat(),
                until=following.isoformat(),
            )

    async def _start(self, planned: Planned, start: Start, following: datetime) -> float:
        result = await self._store.start_slot(planned, start, following)
        if result is None:
            # Should its worker die over it, the slot is still there at the next look.
            return _ANOTHER_LOOK * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load
        fields = {"schedule": planned.name, "slot": planned.slot.isoformat()}
        if isinstance(result, Refused):
            _log.error("slot_refused", **fields, error=str(result.error))
        else:
            _log.info("slot_started", **fields, saga_id=str(result.saga_id))
            self._started()
        return 0
