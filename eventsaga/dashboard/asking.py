"""What is asked for in an address? Checked here, so that rubbish ends as a clean 400 or 404."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request

from eventsaga.core.state import Status
from eventsaga.store.ports import SagaFilter

MOST: Final = 200
"""So many rows are on one page at most."""

_LONGEST: Final = 500
_MOST_BODY: Final = 64 * 1024
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_FORM: Final = "application/x-www-form-urlencoded"


def bad(detail: str) -> HTTPException:
    """Return what is raised when a request means nothing."""
    return HTTPException(400, detail)


def text(query: Mapping[str, str], name: str) -> str | None:
    """Return a parameter; None if it is empty or not there."""
    value = query.get(name, "").strip()
    if len(value) > _LONGEST:
        raise bad(f"{name} is too long")
    if not value.isprintable():
        raise bad(f"{name} holds characters that cannot be printed")
    return value or None


def number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    """Return a parameter that counts from 1 to *most*."""
    value = text(query, name)
    if value is None:
        return default
    if not _NUMBER.fullmatch(value) or not 1 <= int(value) <= most:
        raise bad(f"{name} is a number from 1 to {most}")
    return int(value)


def identity(value: str) -> UUID:
    """Return the id of a saga, as it stands in a path."""
    try:
        return UUID(value)
    except ValueError:
        raise HTTPException(404, "there is no such saga") from None


def before(query: Mapping[str, str]) -> UUID | None:
    """Return the saga behind which a page begins; None for the first page."""
    value = text(query, "before")
    if value is None:
        return None
    try:
        return UUID(value)
    except ValueError:
        raise bad("before is the id of a saga") from None


def wanted(query: Mapping[str, str]) -> SagaFilter:
    """Return which sagas are asked for."""
    status = text(query, "status")
    if status is not None and status not in Status.__members__:
        raise bad(f"status is one of {', '.join(Status)}")
    where = text(query, "where")
    path, equals, value = (where or "").partition("=")
    if where is not None and not (path and equals):
        raise bad("where is path=value, such as customer.id=7")
    return SagaFilter(
        statuses=None if status is None else [Status(status)],
        name=text(query, "name"),
        step=text(query, "step"),
        correlation_id=text(query, "correlation"),
        tenant=text(query, "tenant"),
        created_before=_instant(query, "older"),
        created_after=_instant(query, "newer"),
        where={path: value} if where is not None else {},
        text=text(query, "text"),
    )


def _instant(query: Mapping[str, str], name: str) -> datetime | None:
    value = text(query, name)
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        raise bad(f"{name} is an instant, such as 2026-11-23T10:00") from None
    if not 1970 <= at.year <= 9000:  # noqa: PLR2004 - the database knows them all
        raise bad(f"{name} is out of range")
    return at if at.tzinfo else at.replace(tzinfo=UTC)


async def body(request: Request) -> bytes:
    """Return the body of a request, which is small.

    Raises:
        HTTPException: 413 if it is not.
    """
    parts, size = list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size > _MOST_BODY:
            raise HTTPException(413, "that is too much")
        parts.append(part)
    return b"".join(parts)


async def form(request: Request) -> dict[str, str]:
    """Return the fields of a form; of several with one name, the last."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != _FORM:
        raise HTTPException(415, f"a form is {_FORM}")
    try:
        return dict(parse_qsl((await body(request)).decode(), max_num_fields=20))
    except ValueError:
        raise bad("the form cannot be read") from None
