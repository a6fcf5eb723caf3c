"""How does a service take part in sagas? It applies each request once, and undoes it once.

For the other side of a saga: a service that keeps its data in PostgreSQL and is asked over
HTTP. `IdempotencyMiddleware` commits the effect of a request, its key and its reply in one
transaction; `barrier` orders an undo and the request that it undoes, whichever comes first.
Nothing here needs the orchestrator, and any caller that sends ``Idempotency-Key`` will do.
"""

from eventsaga.participant.barrier import Gate, Turn, barrier
from eventsaga.participant.branch import Branch, Operation
from eventsaga.participant.current import Participation, current
from eventsaga.participant.errors import (
    BadKeyError,
    NoParticipationError,
    ReplyTooLargeError,
    TooLateError,
)
from eventsaga.participant.middleware import IdempotencyMiddleware
from eventsaga.participant.sweep import Swept, forget, sweep
from eventsaga.participant.tables import (
    ParticipantTables,
    create_tables,
    participant_tables,
)

__all__ = [
    "BadKeyError",
    "Branch",
    "Gate",
    "IdempotencyMiddleware",
    "NoParticipationError",
    "Operation",
    "ParticipantTables",
    "Participation",
    "ReplyTooLargeError",
    "Swept",
    "TooLateError",
    "Turn",
    "barrier",
    "create_tables",
    "current",
    "forget",
    "participant_tables",
    "sweep",
]
