"""What becomes of a response? It is kept until it is whole, ends the transaction, and is sent."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import asyncpg
from sqlalchemy.exc import DBAPIError

from eventsaga.participant.asgi import Message, Reply, Send, problem
from eventsaga.participant.branch import is_undo
from eventsaga.participant.errors import BadKeyError, ReplyTooLargeError, TooLateError
from eventsaga.participant.transaction import Answer, End, KeyedRequest, KeyTransaction, is_passing

_log: Final = logging.getLogger(__name__)

_BAD: Final = 400
_BROKEN: Final = 500

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


@dataclass(frozen=True, slots=True)
class Terms:
    """How replies are treated; see `IdempotencyMiddleware`."""

    store_refusals: bool
    max_reply: int
    retry_after: int


class _EndedError(Exception):
    """Tells the application that its response was replaced: what follows it must not run."""


class Outbox:
    """Takes the application's response, ends the transaction, and then sends it.

    When the response is complete, not when the application returns: background tasks run
    after it, and find the effect committed.
    """

    def __init__(
        self,
        terms: Terms,
        transaction: KeyTransaction,
        request: KeyedRequest,
        send: Send,
    ) -> None:
        self._terms = terms
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
            if len(self._body) > self._terms.max_reply:
                raise ReplyTooLargeError(self._terms.max_reply)
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
                return bad_key(error)
            case DBAPIError() | asyncpg.PostgresError() if is_passing(error):
                _log.warning("participant_rolled_back: %s", type(error).__name__)
                return answer_to(End.NOTHING, self._terms.retry_after)
            case _:
                return None

    async def _complete(self, reply: Reply) -> None:
        if reply.status >= _BROKEN:
            # Sent at the end: it may be what a framework says of an error that says more.
            await self._transaction.rollback()
            self._broken = reply
            return
        sent = await self._finish(reply)
        self._is_replaced = sent is not reply
        if self._is_replaced:
            _log.warning("participant_reply_replaced: %s", sent.status)
        await self._deliver(sent)
        if self._is_replaced:
            raise _EndedError

    async def _finish(self, reply: Reply) -> Reply:
        """End the transaction with *reply*; return what to send instead of it."""
        if reply.status < _BAD:
            end = await self._transaction.commit(reply, _storable(reply))
        elif self._stores(reply.status):
            end = await self._transaction.store_refusal(reply, _storable(reply))
        else:
            await self._transaction.rollback()
            return reply
        if end is End.COMMITTED:
            return reply
        await self._transaction.rollback()
        return answer_to(end, self._terms.retry_after)

    def _stores(self, refusal: int) -> bool:
        return (
            self._terms.store_refusals
            and refusal not in NEVER_STORED
            and not is_undo(self._request.key)
        )

    async def _deliver(self, reply: Reply) -> None:
        self._is_sent = True
        # The client may be gone. It comes again, and then the reply is there.
        with suppress(OSError):
            await reply.send(self._send)


def _reply_of(start: Message, body: bytes) -> Reply:
    headers = ((bytes(name).lower(), bytes(value)) for name, value in start.get("headers", ()))
    return Reply(start["status"], tuple(headers), body)


def _storable(reply: Reply) -> list[list[str]]:
    return [
        [name.decode("latin-1"), value.decode("latin-1")]
        for name, value in reply.headers
        if name not in _NOT_STORED_HEADERS
    ]


def _internal(detail: str) -> Reply:
    return problem("not_done", HTTPStatus.INTERNAL_SERVER_ERROR, f"{detail}; nothing was done")


def bad_key(error: BadKeyError) -> Reply:
    """Return the reply to a key that cannot be used."""
    return problem("bad_key", HTTPStatus.BAD_REQUEST, error.reason)


def answer_to(why: Answer | End, retry_after: int) -> Reply:
    """Return the reply to a request that is not, or maybe not, applied."""
    unavailable = HTTPStatus.SERVICE_UNAVAILABLE
    if why is Answer.OTHER:
        detail = "the Idempotency-Key was used for another request"
        return problem("key_reused", HTTPStatus.UNPROCESSABLE_ENTITY, detail)
    if why is End.NOTHING:
        detail = "the database could not do it; nothing was done"
        return problem("not_done", unavailable, detail, retry_after=retry_after)
    if why is End.UNKNOWN:
        # With a time to wait it would be taken for "not done".
        detail = "the commit was not answered: ask again with the same key"
        return problem("outcome_unknown", unavailable, detail)
    detail = "a request with this key is being applied: ask again with the same key"
    return problem("still_running", HTTPStatus.CONFLICT, detail, retry_after=retry_after)
