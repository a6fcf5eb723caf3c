"""Who notices that a saga is stuck? The oldest worker that runs its kind looks, now and then.

Every worker has a monitor. Of those that run sagas of a name, the one whose worker has lived
longest speaks for it, so that an alert is raised once and not by each of them; if it dies, the
next one raises again what still holds. Beside that, it reads the histories of a few sagas at
each look, and of all of them in turn, and judges them as `eventsaga verify` does.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from inspect import isawaitable
from typing import Any, Final
from uuid import UUID

from eventsaga.client.verify import verify
from eventsaga.errors import DatabaseUnavailableError
from eventsaga.observe.alert import Alert, AlertHandler, AlertKind
from eventsaga.observe.log import logger
from eventsaga.observe.observer import Observers
from eventsaga.saga import Saga
from eventsaga.store.ports import Stranded
from eventsaga.store.postgres import watch
from eventsaga.store.postgres.store import PostgresStore

_MOST: Final = 100
_AUDITED_SAGAS: Final = 200
_AUDITED_EVENTS: Final = 2000
_FIRST: Final = UUID(int=0)

_log = logger("monitor")

_Subject = tuple[AlertKind, str, UUID | None, str | None]


class Monitor:
    """Looks for what a person should know of, and says it once.

    Args:
        store: Where the sagas are.
        sagas: What the worker beside it runs.
        worker_id: Who that worker is at this moment.
        observers: Told of all alerts at each look.
        handler: Called with each alert as it is raised; None for nobody.
    """

    def __init__(
        self,
        store: PostgresStore,
        sagas: Iterable[Saga[Any]],
        worker_id: Callable[[], UUID],
        observers: Observers,
        handler: AlertHandler | None,
    ) -> None:
        self._store = store
        self._worker_id = worker_id
        self._observers = observers
        self._handler = handler
        self._limits = limits_of(sagas, store)
        self._raised: dict[_Subject, Alert] = {}
        self._audited = _FIRST
        self._broken: set[UUID] = set()

    async def keep(self) -> None:
        """Look again and again until cancelled; the first time after a while."""
        while True:
            await asyncio.sleep(self._store.settings.watch.total_seconds())
            try:
                await self.look()
            except DatabaseUnavailableError as error:
                _log.warning("monitor_without_database", error=str(error))
            except Exception:  # noqa: BLE001 - one look that fails must not be the last one
                _log.exception("monitor_failed")

    async def look(self) -> Sequence[Alert]:
        """Raise what is new, drop what is over, and return all that holds.

        Raises:
            DatabaseUnavailableError: If the database cannot be reached.
        """
        leaders = await watch.leaders(self._store)
        mine = {name for name, worker in leaders.items() if worker == self._worker_id()}
        alerts = [*await self._cases(mine), *await self._stranded(mine, set(leaders))]
        if mine:
            alerts += await self._violations()
        found = {alert.subject: alert for alert in alerts}
        new = [alert for subject, alert in found.items() if subject not in self._raised]
        for subject in self._raised.keys() - found.keys():
            _log.info("alert_over", **_fields(self._raised[subject]))
        self._raised = found
        self._observers.watched(alerts)
        for alert in new:
            await self._raise(alert)
        return alerts

    async def _cases(self, mine: set[str]) -> list[Alert]:
        limits = self._limits._replace(
            by_name={name: most for name, most in self._limits.by_name.items() if name in mine}
        )
        return [
            Alert(
                kind=AlertKind(case.kind),
                saga_name=case.name,
                saga_id=case.saga_id,
                step=case.step,
                since=case.since,
                message=case.message,
            )
            for case in await watch.cases(self._store, limits, _MOST)
        ]

    async def _stranded(self, mine: set[str], brought: set[str]) -> list[Alert]:
        """Return what no worker can run; of a name that nobody brings, every worker says it."""
        by_name = defaultdict[str, list[Stranded]](list)
        for stranded in await self._store.stranded():
            if stranded.name in mine or stranded.name not in brought:
                by_name[stranded.name].append(stranded)
        return [
            Alert(
                kind=AlertKind.NO_WORKER,
                saga_name=name,
                since=min(one.since for one in lacking),
                message="no living worker has "
                + ", ".join(
                    f"version {one.version} ({one.fingerprint}) of {one.sagas} sagas that are due"
                    for one in lacking
                ),
            )
            for name, lacking in by_name.items()
        ]

    async def _violations(self) -> list[Alert]:
        """Judge the next sagas in turn, and those again that broke an invariant before."""
        chosen = self._broken.union(await self._next())
        if not chosen:
            return []
        found = {
            violation.saga_id: violation async for violation in verify(self._store, sorted(chosen))
        }
        self._broken = set(found)
        return [
            Alert(
                kind=AlertKind.VIOLATION,
                saga_name="",
                saga_id=saga_id,
                message=str(violation),
            )
            for saga_id, violation in found.items()
        ]

    async def _next(self) -> list[UUID]:
        """Return the sagas whose turn it is; so few that running ones do not notice."""
        found = await watch.sagas_after(self._store, self._audited, _AUDITED_SAGAS)
        chosen: list[UUID] = []
        self._audited, room = _FIRST, _AUDITED_EVENTS
        for saga_id, events in found:
            if events > _AUDITED_EVENTS:
                continue  # for `eventsaga verify`, in a process of its own
            room -= events
            if room < 0:
                break
            chosen.append(saga_id)
        if room < 0 or len(found) == _AUDITED_SAGAS:
            self._audited = chosen[-1] if room < 0 else found[-1][0]
        return chosen

    async def _raise(self, alert: Alert) -> None:
        is_grave = alert.kind is AlertKind.VIOLATION
        _log.log(logging.ERROR if is_grave else logging.WARNING, "alert", **_fields(alert))
        if self._handler is None:
            return
        try:
            answer = self._handler(alert)
            if isawaitable(answer):
                await answer
        except Exception:  # noqa: BLE001 - whoever is told must not stop who watches
            _log.exception("alert_not_taken", **_fields(alert))


def limits_of(sagas: Iterable[Saga[Any]], store: PostgresStore) -> watch.Limits:
    """Return how long *sagas* may stand still; of several versions, the longest counts."""
    default = store.settings.stuck_after
    by_name = dict[str, Any]()
    for saga in sagas:
        allowed = saga.stuck_after or default
        by_name[saga.name] = max(allowed, by_name.get(saga.name, allowed))
    return watch.Limits(by_name, default)


def _fields(alert: Alert) -> dict[str, object]:
    fields: dict[str, object] = {"kind": alert.kind.value, "saga_name": alert.saga_name}
    if alert.saga_id is not None:
        fields["saga_id"] = str(alert.saga_id)
    if alert.step is not None:
        fields["step"] = alert.step
    if alert.since is not None:
        fields["since"] = alert.since.isoformat()
    return fields | {"message": alert.message}
