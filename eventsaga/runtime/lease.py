"""May this worker act? As long as its lease lasts, less a margin, by the monotonic clock.

The lease is counted from before the renewal was sent: the database can only have granted
it later, so the worker always believes in less than it has. A lease that ended is never
renewed; the worker then takes a new identity, and its old sagas like anybody else's.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID, uuid4

from eventsaga.errors import DatabaseUnavailableError
from eventsaga.observe.log import logger
from eventsaga.runtime.clock import DatabaseClock
from eventsaga.runtime.process import is_gone, machine_of, this_process
from eventsaga.settings import Settings
from eventsaga.store.ports import DefinitionKey, Store

_log = logger("worker")

_RETRY_SECONDS: Final = 0.5


class Lease:
    """The lease of one worker process, over all identities that it takes.

    Args:
        store: Where the lease is kept.
        settings: Heartbeat, lease and margin.
        clock: Set by every answer.
        definitions: What the worker can run; shown beside its lease.
        lost: Called when a lease has ended; *worker_id* is a new one by then.
        safe: Called after each grant: what was held back may start now.
        freed: Called when another worker of this machine was found dead.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: DatabaseClock,
        definitions: Sequence[DefinitionKey],
        *,
        lost: Callable[[UUID], None],
        safe: Callable[[], None],
        freed: Callable[[], None],
    ) -> None:
        self.worker_id: UUID = uuid4()
        self._store = store
        self._settings = settings
        self._clock = clock
        self._definitions = definitions
        self._lost = lost
        self._safe = safe
        self._freed = freed
        self._safe_until = float("-inf")
        self._process: str | None = None

    @property
    def is_safe(self) -> bool:
        """Whether enough of the lease is left to start an effect."""
        return self._clock.monotonic() < self._safe_until

    async def acquire(self) -> None:
        """Take the first lease of this identity.

        Raises:
            DatabaseUnavailableError: If the database cannot be reached.
        """
        self._process = this_process()
        sent = self._clock.monotonic()
        now = await self._store.register_worker(
            self.worker_id, self._settings.lease, self._definitions, self._process
        )
        self._granted(sent)
        self._clock.align(now, sent=sent, received=self._clock.monotonic())
        await self._bury()

    async def keep(self) -> None:
        """Renew the lease until cancelled."""
        heartbeat = self._settings.heartbeat.total_seconds()
        pause = heartbeat
        while True:
            await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(self._settings.lease.total_seconds() / 2):
                    await self._renew()
                pause = heartbeat
            except (DatabaseUnavailableError, TimeoutError) as error:
                _log.warning("lease_not_renewed", worker_id=str(self.worker_id), error=str(error))
                # Soon, but not in step with every other worker that waits for the database.
                pause = random.uniform(0.1, _RETRY_SECONDS)  # noqa: S311 - not for secrets
            except Exception:  # noqa: BLE001 - a heart that stops for a bug takes everything with it
                _log.exception("lease_not_renewed", worker_id=str(self.worker_id))
                pause = _RETRY_SECONDS

    async def _renew(self) -> None:
        sent = self._clock.monotonic()
        renewal = await self._store.renew(self.worker_id, self._settings.lease)
        self._clock.align(renewal.now, sent=sent, received=self._clock.monotonic())
        if renewal.granted:
            self._granted(sent)
            await self._bury()
            return
        previous, self.worker_id = self.worker_id, uuid4()
        self._safe_until = float("-inf")
        self._lost(previous)
        await self.acquire()

    async def _bury(self) -> None:
        """End the leases of processes of this machine that are gone: nobody need wait for them.

        It only saves time. Should one live after all, it finds its lease ended, as after a
        pause, and the fence keeps its late appends out.
        """
        if self._process is None:
            return
        try:
            neighbours = await self._store.neighbours(machine_of(self._process))
            gone = [worker_id for worker_id, process in neighbours if is_gone(process)]
            if gone:
                await self._store.end_leases(gone)
                _log.info("workers_gone", workers=[str(worker_id) for worker_id in gone])
                self._freed()
        except DatabaseUnavailableError as error:
            _log.warning("neighbours_not_seen", error=str(error))

    def _granted(self, sent: float) -> None:
        usable = self._settings.lease - self._settings.lease_margin
        self._safe_until = sent + usable.total_seconds()
        if self.is_safe:
            self._safe()
