"""What keeps a drill from being tried?"""

from eventsaga.errors import EventSagaError


class DrillError(EventSagaError):
    """The drill cannot be tried as it was asked for; the message says why and what to do."""


class WorkerEndedError(EventSagaError):
    """A worker process ended by itself; the message holds the end of what it said."""
