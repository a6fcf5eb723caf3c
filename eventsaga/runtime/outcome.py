"""What does an error mean? That nothing happened, or that nobody knows.

The line between the two is whether a request may have reached the other side. It is drawn
here, for the errors of httpx and of Python's own sockets, and by the errors that a step
raises on purpose.
"""

import asyncio
import email.utils
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx
from sqlalchemy.exc import StatementError

from eventsaga.errors import InDoubtError, PermanentError, TemporaryError

_MAX_MESSAGE: Final = 2_000
_CONFLICT: Final = 409
_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503
_SERVER_ERROR: Final = 500
_CLIENT_ERROR: Final = 400

# Nothing was sent: no connection, or the request could not even be written down.
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_UNSENDABLE: Final = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL)
# The connection broke, or the answer did not come, after something was sent.
_NO_ANSWER: Final = (
    httpx.TransportError,
    TimeoutError,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    asyncio.IncompleteReadError,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an error says about the effect.

    Attributes:
        in_doubt: The effect may have happened.
        permanent: Another attempt is useless.
        retry_after: The other side asked to wait so long; None if it did not.
    """

    in_doubt: bool = False
    permanent: bool = False
    retry_after: timedelta | None = None


_FAILED: Final = Verdict()
_PERMANENT: Final = Verdict(permanent=True)
_IN_DOUBT: Final = Verdict(in_doubt=True)


def judge(error: BaseException) -> Verdict:
    """Return what *error*, raised by an attempt, says about its effect."""
    match error:
        case TemporaryError():
            return Verdict(retry_after=error.retry_after)
        case PermanentError():
            return _PERMANENT
        case InDoubtError():
            return _IN_DOUBT
        case httpx.HTTPStatusError():
            return _judge_status(error.response)
        case _:
            return _judge_other(error)


def _judge_other(error: BaseException) -> Verdict:
    if isinstance(error, _UNSENDABLE):
        return _PERMANENT
    if isinstance(error, _NOT_SENT):
        return _FAILED
    return _IN_DOUBT if isinstance(error, _NO_ANSWER) else _FAILED


def _judge_status(response: httpx.Response) -> Verdict:
    status, wait = response.status_code, _retry_after(response)
    if status == _CONFLICT:
        # An earlier request with this key is still at work: its effect may yet happen.
        return Verdict(in_doubt=True, retry_after=wait)
    if status == _TOO_MANY or (status == _UNAVAILABLE and wait is not None):
        return Verdict(retry_after=wait)
    if status >= _SERVER_ERROR:
        return _IN_DOUBT
    # A redirect that was not followed did nothing either, and will not.
    return _PERMANENT if status >= _CLIENT_ERROR or response.is_redirect else _FAILED


def _retry_after(response: httpx.Response) -> timedelta | None:
    """Return how long the answer asks to wait: seconds, or an HTTP date (RFC 9110)."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        # Longer than a year is nonsense, and might not fit a timedelta.
        return timedelta(seconds=min(int(text[:9]), 365 * 86_400))
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    # Both instants by the other side's clock where it tells it, so that skew cancels out.
    return max(at - _sent_at(response), timedelta(0))


def _sent_at(response: httpx.Response) -> datetime:
    try:
        return email.utils.parsedate_to_datetime(response.headers.get("Date", ""))
    except ValueError:
        return datetime.now(UTC)


def describe(error: BaseException) -> str:
    """Return what *error* says, short enough and clean enough to be stored.

    The query of a URL may hold a token: the text of httpx's status errors, which repeats
    the URL, is replaced by method, host, path and status.
    """
    if isinstance(error, httpx.HTTPStatusError):
        request, response = error.request, error.response
        url = request.url.copy_with(query=None, fragment=None, userinfo=b"")
        text = f"{request.method} {url} answered {response.status_code} {response.reason_phrase}"
    elif isinstance(error, StatementError) and error.orig is not None:
        # Without the statement and its parameters, which SQLAlchemy repeats.
        text = _told(error.orig)
    else:
        text = _told(error) or type(error).__name__
    return storable(text)


def storable(text: str) -> str:
    """Return *text* without what PostgreSQL does not store, and not too long."""
    # NUL and lone surrogates must not turn a failure into a crash.
    clean = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= _MAX_MESSAGE else clean[: _MAX_MESSAGE - 1] + "…"


def _told(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a message that cannot be had must not hide the failure
        return ""
