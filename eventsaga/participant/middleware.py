"""How is a request applied once, however often it comes? The whole request is one transaction.

The request is read, its key is locked and looked up, the application runs with a session of
that transaction, and when its response is complete the response is stored under the key and
everything is committed. Only then is the response sent.

===========================================  ================================================
What happens                                 What the caller gets
===========================================  ================================================
2xx or 3xx                                   the reply, stored and committed with the effect
4xx                                          the reply; the effect is rolled back, and the
                                             reply stored unless it may change
5xx, an exception, no complete response      500 or what was said; nothing is stored
the same request again                       the stored reply and ``Idempotent-Replayed: true``
the same key for another request             422
the same key while it is still running       409 and ``Retry-After``
PostgreSQL not there, deadlock, …            503 and ``Retry-After``; certainly nothing done
COMMIT sent and not answered                 503 without ``Retry-After``; nobody knows
no key, or a bad one                         400
a body that is too large                     413
===========================================  ================================================

The last but two differ on purpose: callers take a 503 that names a time for "not done, come
later" (RFC 9110), and eventsaga does not compensate what was not done.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from eventsaga.participant.asgi import (
    App,
    BodyTooLargeError,
    Receive,
    Reply,
    Scope,
    Send,
    fingerprint,
    problem,
    read_body,
    read_key,
    replaying,
)
from eventsaga.participant.current import Participation, participating
from eventsaga.participant.errors import BadKeyError
from eventsaga.participant.outbox import Outbox, Terms, answer_to, bad_key
from eventsaga.participant.tables import tables_in
from eventsaga.participant.transaction import Answer, End, KeyedRequest, KeyTransaction, is_passing

_log: Final = logging.getLogger(__name__)

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_APPLYING: Final = "eventsaga.participant"
_REPLAYED: Final = (b"idempotent-replayed", b"true")


class IdempotencyMiddleware:
    """ASGI middleware that makes an application honour ``Idempotency-Key``.

    Put it inside of what authenticates: a stored reply is sent without asking the application.
    Safe requests (GET, HEAD, OPTIONS, TRACE), websockets and lifespan events pass through.

    Args:
        app: The application.
        database: Its PostgreSQL: an engine on asyncpg, or a URL for an engine of its own,
            which is disposed of at the end of the lifespan. Each request with a key holds a
            connection while the application runs, so a second one from the same pool may
            have to wait for it.
        schema: Schema of the tables, see `create_tables`; None for the search path.
        required: Whether an unsafe request without a key is answered 400. If not, it runs as
            if there was no middleware, and has no session.
        store_refusals: Whether a 4xx reply is stored, so that a request that was held up on
            its way finds the same answer. 401, 403, 407, 408, 409, 421, 425 and 429 never
            are; nor is the refusal of an undo that eventsaga asks for, which is tried again
            when its cause is mended. See `forget`.
        caller_of: Returns from the ASGI scope whose key it is, such as the name of the
            authenticated user. Each caller has keys of its own. None if all share them.
        applies: Returns from the ASGI scope whether the request needs a key; None for all
            unsafe ones.
        max_request: Bytes that the body of a request may have.
        max_reply: Bytes that the body of a reply may have.
        retry_after: Seconds that a caller is asked to wait.
        timeout: Within it PostgreSQL must begin, store or commit. Seconds or a timedelta.
    """

    def __init__(
        self,
        app: App,
        database: AsyncEngine | str,
        *,
        schema: str | None = None,
        required: bool = True,
        store_refusals: bool = True,
        caller_of: Callable[[Scope], str] | None = None,
        applies: Callable[[Scope], bool] | None = None,
        max_request: int = 1_000_000,
        max_reply: int = 1_000_000,
        retry_after: int = 1,
        timeout: timedelta | float = 10.0,
    ) -> None:
        self.app = app
        self._owned = isinstance(database, str)
        self.engine = _engine(database) if isinstance(database, str) else database
        self._tables = tables_in(schema)
        self._required = required
        self._caller_of = caller_of
        self._applies = applies
        self._max_request = max_request
        self._terms = Terms(store_refusals, max_reply, retry_after)
        self._timeout = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif self._passes(scope):
            await self.app(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            if self._owned:
                await self.engine.dispose()

    def _passes(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] in _SAFE:
            return True
        if _APPLYING in scope:
            return True  # another one around this one is at work, and holds the key's lock
        return self._applies is not None and not self._applies(scope)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            key = read_key(scope)
        except BadKeyError as error:
            await bad_key(error).send(send)
            return
        if key is None and self._required:
            await bad_key(BadKeyError("an Idempotency-Key is needed")).send(send)
            return
        if key is None:
            await self.app(scope, receive, send)
            return
        try:
            # All of it, before a connection is taken: a slow client shall not hold one.
            body = await read_body(scope, receive, self._max_request)
        except BodyTooLargeError:
            detail = f"the body of the request is larger than {self._max_request} bytes"
            await problem("too_large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail).send(send)
            return
        if body is None:
            return
        caller = "" if self._caller_of is None else self._caller_of(scope)
        request = KeyedRequest(caller, key, fingerprint(scope, body))
        await self._take(request, scope, replaying(body, receive), send)

    async def _take(
        self, request: KeyedRequest, scope: Scope, receive: Receive, send: Send
    ) -> None:
        transaction = KeyTransaction(self.engine, self._tables, request, self._timeout)
        try:
            answer = await self._begun(transaction)
            if answer is Answer.FREE:
                await self._apply(transaction, request, scope, receive, send)
                return
            await transaction.rollback()
            if isinstance(answer, Reply):
                await answer.send(send, _REPLAYED)
            else:
                await answer_to(answer, self._terms.retry_after).send(send)
        finally:
            # Whatever did not end in good order ends with its connection.
            transaction.discard()

    async def _begun(self, transaction: KeyTransaction) -> Answer | Reply | End:
        try:
            return await transaction.begin()
        except Exception as error:
            if not is_passing(error):
                raise
            _log.warning("participant_has_no_database: %s", type(error).__name__)
            return End.NOTHING

    async def _apply(
        self,
        transaction: KeyTransaction,
        request: KeyedRequest,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        outbox = Outbox(self._terms, transaction, request, send)
        participation = Participation(transaction.session, request.key, request.caller)
        token = participating.set(participation)
        try:
            await self.app(_inner(scope), receive, outbox)
        except Exception as error:
            if await outbox.failed(error):
                raise
        else:
            await outbox.ended()
        finally:
            participating.reset(token)


def _engine(url: str) -> AsyncEngine:
    parsed = make_url(url.replace("postgres://", "postgresql://", 1))
    return create_async_engine(parsed.set(drivername="postgresql+asyncpg"))


def _inner(scope: Scope) -> dict[str, Any]:
    """Return the scope that the application sees."""
    extensions: dict[str, Any] = scope.get("extensions") or {}
    return {
        **scope,
        _APPLYING: True,
        # The response is taken as messages with a body, not as a path or trailers.
        "extensions": {
            name: value
            for name, value in extensions.items()
            if not name.startswith("http.response.")
        },
    }
