"""Where does the application write? In the transaction that also stores the key and the reply."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from eventsaga.participant.errors import NoParticipationError


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


participating: Final[ContextVar[Participation]] = ContextVar("participating")


def current() -> Participation:
    """Return the participation of the request that runs this code.

    Raises:
        NoParticipationError: If the request is safe, carries no key, or did not come through
            the middleware.
    """
    try:
        return participating.get()
    except LookupError:
        raise NoParticipationError from None
