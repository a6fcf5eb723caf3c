"""Who is told what happens? Anybody who counts, times or traces; nothing waits for them."""

from collections.abc import Callable, Sequence
from typing import Any

from eventsaga.core.commands import Command
from eventsaga.core.events import SagaEvent
from eventsaga.core.react import RunStep
from eventsaga.core.state import State
from eventsaga.observe.alert import Alert
from eventsaga.observe.log import logger

_log = logger("observe")


class Observer:
    """Is told what a process does: override what is of interest.

    It is called on the event loop, so it must be quick.
    """

    def committed(self, state: State, events: Sequence[SagaEvent], /) -> None:
        """Take note that this process has appended *events*, and that they are durable.

        Every event is told once, by the process that appended it; those of a process that died
        in that instant, by nobody.

        Args:
            state: Where the saga stands after them; not to be kept or changed.
            events: At least one.
        """

    def attempted(self, state: State, effect: RunStep, ended: Command, seconds: float, /) -> None:
        """Take note that an attempt of a step has ended; that is not durable yet.

        Args:
            state: Where the saga stands; not to be kept or changed.
            effect: Which attempt of which function.
            ended: How it ended.
            seconds: How long the function ran; the time in queues is left out.
        """

    def appended(self, sagas: int, seconds: float, /) -> None:
        """Take note that a batch is durable.

        Args:
            sagas: How many sagas got events by it.
            seconds: From when it was sent to when its outcome was certain.
        """

    def watched(self, alerts: Sequence[Alert], /) -> None:
        """Take note of a look around: *alerts* is all that holds now, not only what is new."""


class Observers(Observer):
    """Several observers, seen as one. The error of one is logged, and stops nothing."""

    def __init__(self) -> None:
        # By verb, and only those who override it: most sagas are run with few observers.
        self._committed: list[Callable[..., None]] = []
        self._attempted: list[Callable[..., None]] = []
        self._appended: list[Callable[..., None]] = []
        self._watched: list[Callable[..., None]] = []

    def add(self, observer: Observer) -> None:
        """Tell *observer* too, from now on."""
        for verb, told in (
            (Observer.committed, self._committed),
            (Observer.attempted, self._attempted),
            (Observer.appended, self._appended),
            (Observer.watched, self._watched),
        ):
            if getattr(type(observer), verb.__name__) is not verb:
                told.append(getattr(observer, verb.__name__))

    def committed(self, state: State, events: Sequence[SagaEvent], /) -> None:
        """See `Observer.committed`."""
        _tell(self._committed, state, events)

    def attempted(self, state: State, effect: RunStep, ended: Command, seconds: float, /) -> None:
        """See `Observer.attempted`."""
        _tell(self._attempted, state, effect, ended, seconds)

    def appended(self, sagas: int, seconds: float, /) -> None:
        """See `Observer.appended`."""
        _tell(self._appended, sagas, seconds)

    def watched(self, alerts: Sequence[Alert], /) -> None:
        """See `Observer.watched`."""
        _tell(self._watched, alerts)


def _tell(observers: Sequence[Callable[..., None]], *what: Any) -> None:
    for told in observers:
        try:
            told(*what)
        except Exception:  # noqa: BLE001 - whoever counts must not stop what is counted
            _log.exception("observer_failed", observer=told.__qualname__)
