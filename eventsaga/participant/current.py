"""Where does the application write? In the transaction that also stores the key and the reply."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from eventsaga.participant.errors import NoParticipationError

STATE: Final = "eventsaga_participant"
"""Under this name ``scope["state"]`` holds the `Participation`."""


class HasScope(Protocol):
    """A request of Starlette or FastAPI."""

    @property
    def scope(self) -> Any:
        """The ASGI scope."""


@dataclass(frozen=True, slots=True)
class Participation:
    """One request that carries a key, while it is applied.

    Attributes:
        session: Its transaction. Flush, use savepoints, and commit, which releases a
            savepoint: the transaction itself is committed when the response is complete, and
            rolled back if its status is 400 or more. Of no use after that.
        key: The key, without quotes.
        caller: Whose key it is; empty if ``caller_of`` was not given.
    """

    session: AsyncSession
    key: str
    caller: str


participating: Final[ContextVar[Participation | None]] = ContextVar("participating", default=None)


def current() -> Participation:
    """Return the participation of the request that runs this code.

    Raises:
        NoParticipationError: If there is none.
    """
    return _required(participating.get())


def participant_session(request: HasScope | Mapping[str, Any] | None = None) -> AsyncSession:
    """Return the session in whose transaction the request is applied.

    Args:
        request: The request, or its ASGI scope; None for the one that runs this code.

    Raises:
        NoParticipationError: If the request is safe, carries no key, or did not come through
            the middleware.
    """
    if request is None:
        return current().session
    scope: Mapping[str, Any] = request if isinstance(request, Mapping) else request.scope
    return _required(scope.get("state", {}).get(STATE)).session


def _required(participation: Participation | None) -> Participation:
    if participation is None:
        raise NoParticipationError(
            "this code does not run in an unsafe request with an Idempotency-Key that came "
            "through IdempotencyMiddleware"
        )
    return participation
