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
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final

from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from eventsaga.participant.asgi import (
    App,
    BodyTooLargeError,
    Message,
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
from eventsaga.participant.branch import is_undo
from eventsaga.participant.current import STATE, Participation, participating
from eventsaga.participant.errors import BadKeyError, ReplyTooLargeError, TooLateError
from eventsaga.participant.tables import tables_in
from eventsaga.participant.transaction import Answer, End, KeyedRequest, KeyTransaction, is_passing

_log: Final = logging.getLogger(__name__)

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_BAD: Final = 400
_BROKEN: Final = 500
_REPLAYED: Final = (b"idempotent-replayed", b"true")

# What these say may be different next time, whatever the setting.
NEVER_STORED: Final = frozenset({401, 403, 407, 408, 409, 421, 425, 429})

# They belong to one connection or one moment, or are a secret of one response.
_NOT_STORED_HEADERS: Final = frozenset(
    {
        b"connection",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"server",
        b"set-cookie",
        b"te",  # codespell:ignore te
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


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
        self._store_refusals = store_refusals
        self._caller_of = caller_of
        self._applies = applies
        self._max_request = max_request
        self._max_reply = max_reply
        self._retry_after = retry_after
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
        if STATE in scope.get("state", {}):
            return True  # another one around this one is at work, and holds the key's lock
        return self._applies is not None and not self._applies(scope)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            key = read_key(scope)
        except BadKeyError as error:
            await _bad_key(error).send(send)
            return
        if key is None and self._required:
            await _bad_key(BadKeyError("an Idempotency-Key is needed")).send(send)
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
            elif answer is Answer.OTHER:
                await _reused().send(send)
            else:
                await self.later(answer).send(send)
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
        outbox = _Outbox(self, transaction, request, send)
        participation = Participation(transaction.session, request.key, request.caller)
        token = participating.set(participation)
        try:
            await self.app(_inner(scope, participation), receive, outbox)
        except Exception as error:
            if await outbox.failed(error):
                raise
        else:
            await outbox.ended()
        finally:
            participating.reset(token)

    async def finish(
        self, transaction: KeyTransaction, request: KeyedRequest, reply: Reply
    ) -> Reply:
        """End the transaction of a request with *reply*; return what to send instead of it."""
        if reply.status < _BAD:
            end = await transaction.commit(reply, _storable(reply))
        elif self._stores(reply.status, request):
            end = await transaction.store_refusal(reply, _storable(reply))
        else:
            await transaction.rollback()
            return reply
        if end is End.COMMITTED:
            return reply
        await transaction.rollback()
        return self.later(end)

    @property
    def max_reply(self) -> int:
        """Bytes that the body of a reply may have."""
        return self._max_reply

    def _stores(self, status: int, request: KeyedRequest) -> bool:
        return (
            self._store_refusals
            and status < _BROKEN
            and status not in NEVER_STORED
            and not is_undo(request.key)
        )

    def later(self, why: Answer | End) -> Reply:
        """Return a reply that makes the caller come again with the same key."""
        unavailable = HTTPStatus.SERVICE_UNAVAILABLE
        if why is End.NOTHING:
            detail = "the database could not do it; nothing was done"
            return problem("not_done", unavailable, detail, retry_after=self._retry_after)
        if why is End.UNKNOWN:
            detail = "the commit was not answered: ask again with the same key"
            return problem("outcome_unknown", unavailable, detail)
        return problem(
            "still_running",
            HTTPStatus.CONFLICT,
            "a request with this key is being applied: ask again with the same key",
            retry_after=self._retry_after,
        )


class _EndedError(Exception):
    """Tells the application that its response was replaced: what follows it must not run."""


class _Outbox:
    """Takes the application's response, ends the transaction, and then sends it.

    When the response is complete, not when the application returns: background tasks run
    after it, and find the effect committed.
    """

    def __init__(
        self,
        middleware: IdempotencyMiddleware,
        transaction: KeyTransaction,
        request: KeyedRequest,
        send: Send,
    ) -> None:
        self._middleware = middleware
        self._transaction = transaction
        self._request = request
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()
        self._is_complete = False
        self._is_sent = False
        self._is_replaced = False
        self._broken: Reply | None = None

    async def __call__(self, message: Message) -> None:
        """Take a message of the application."""
        if self._is_complete:
            return
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body" and self._start is not None:
            self._body += message.get("body", b"")
            if len(self._body) > self._middleware.max_reply:
                raise ReplyTooLargeError(self._middleware.max_reply)
            if not message.get("more_body", False):
                self._is_complete = True
                await self._complete(_reply_of(self._start, bytes(self._body)))

    async def ended(self) -> None:
        """Send what is left, when the application has returned."""
        if self._is_sent:
            return
        await self._transaction.rollback()
        await self._deliver(self._broken or _internal("the application sent no whole response"))

    async def failed(self, error: Exception) -> bool:
        """Send what is left, when the application raised; return whether to raise it again."""
        if self._is_replaced:
            return False
        if self._is_sent:
            return True
        await self._transaction.rollback()
        answer = self._answer_to(error)
        await self._deliver(answer or self._broken or _internal("the request failed"))
        return answer is None

    def _answer_to(self, error: Exception) -> Reply | None:
        """Return what the caller shall know of *error*; None if it is the application's bug."""
        match error:
            case TooLateError():
                return problem("too_late", HTTPStatus.GONE, str(error))
            case BadKeyError():
                return _bad_key(error)
            case DBAPIError() if is_passing(error):
                _log.warning("participant_rolled_back: %s", type(error.orig).__name__)
                return self._middleware.later(End.NOTHING)
            case _:
                return None

    async def _complete(self, reply: Reply) -> None:
        if reply.status >= _BROKEN:
            # Sent at the end: it may be what a framework says of an error that says more.
            await self._transaction.rollback()
            self._broken = reply
            return
        sent = await self._middleware.finish(self._transaction, self._request, reply)
        self._is_replaced = sent is not reply
        if self._is_replaced:
            _log.warning("participant_reply_replaced: %s", sent.status)
        await self._deliver(sent)
        if self._is_replaced:
            raise _EndedError

    async def _deliver(self, reply: Reply) -> None:
        self._is_sent = True
        # The client may be gone. It comes again, and then the reply is there.
        with suppress(OSError):
            await reply.send(self._send)


def _engine(url: str) -> AsyncEngine:
    parsed = make_url(url.replace("postgres://", "postgresql://", 1))
    return create_async_engine(parsed.set(drivername="postgresql+asyncpg"))


def _inner(scope: Scope, participation: Participation) -> dict[str, Any]:
    """Return the scope that the application sees."""
    extensions: dict[str, Any] = scope.get("extensions") or {}
    return {
        **scope,
        # A copy: servers may hand the same state to all requests.
        "state": {**scope.get("state", {}), STATE: participation},
        # The response is taken as messages with a body, not as a path or trailers.
        "extensions": {
            name: value
            for name, value in extensions.items()
            if not name.startswith("http.response.")
        },
    }


def _reply_of(start: Message, body: bytes) -> Reply:
    headers = ((bytes(name).lower(), bytes(value)) for name, value in start.get("headers", ()))
    return Reply(start["status"], tuple(headers), body)


def _storable(reply: Reply, without: Collection[bytes] = _NOT_STORED_HEADERS) -> list[list[str]]:
    return [
        [name.decode("latin-1"), value.decode("latin-1")]
        for name, value in reply.headers
        if name not in without
    ]


def _bad_key(error: BadKeyError) -> Reply:
    return problem("bad_key", HTTPStatus.BAD_REQUEST, error.reason)


def _reused() -> Reply:
    return problem(
        "key_reused",
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "the Idempotency-Key was used for another request",
    )


def _internal(detail: str) -> Reply:
    return problem("not_done", HTTPStatus.INTERNAL_SERVER_ERROR, f"{detail}; nothing was done")
