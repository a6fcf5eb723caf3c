"""How is a value taken out of a history? By one function of the database, and by nothing else.

It may be executed by those whom `eventsaga grants` calls erasers. It takes the value out of
the events and the row in one transaction, keeps the digests that the hashes were made of, and
appends a `DataRedacted` that says what each changed event was left with: the chain holds, and
whatever somebody else might put in the value's place does not.
"""

from typing import Final
from uuid import UUID

from eventsaga.errors import (
    DatabaseUnavailableError,
    EventSagaError,
    IllegalCommandError,
    PayloadError,
    SagaNotFoundError,
)
from eventsaga.store.postgres.sql import qualify
from eventsaga.store.postgres.store import PostgresStore

REDACT: Final = "SELECT eventsaga.redact($1::uuid, $2::text, $3::text, $4::text)"

# What the function raises, by SQLSTATE.
_NO_SUCH_SAGA: Final = "P0002"
_BAD_ARGUMENT: Final = "22023"
_NOT_NOW: Final = frozenset({"55000", "55006"})


async def redact(store: PostgresStore, saga_id: UUID, path: str, *, reason: str, actor: str) -> int:
    """Take what stands at *path* out of all that is stored of a saga that has ended.

    Args:
        store: An open store.
        saga_id: The saga.
        path: Names with dots between them, from the context's root, such as
            ``customer.email``; through a list they go to each item, ``items.0`` to the first.
        reason: Why; recorded.
        actor: Who wants it; recorded.

    Returns:
        The number of events that were changed; 0 if nothing stands there.

    Raises:
        SagaNotFoundError: If there is no such saga.
        IllegalCommandError: If it has not ended, or still owes something.
        PayloadError: If the path is none, or the reason is empty.
        DatabaseUnavailableError: If the database cannot be reached, or this user is no eraser.
    """
    statement = qualify(REDACT, store.settings.schema)
    try:
        async with store.connection() as connection:
            changed: int = await connection.fetchval(statement, saga_id, path, reason, actor)
            return changed
    except DatabaseUnavailableError as error:
        raise _refusal(error, saga_id, path) from error


def _refusal(error: DatabaseUnavailableError, saga_id: UUID, path: str) -> EventSagaError:
    state: str = getattr(error.__cause__, "sqlstate", None) or ""
    if state == _NO_SUCH_SAGA:
        return SagaNotFoundError(saga_id)
    if state in _NOT_NOW:
        return IllegalCommandError("redact", str(error.__cause__))
    if state == _BAD_ARGUMENT:
        return PayloadError(path, str(error.__cause__))
    return error
