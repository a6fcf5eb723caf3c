"""What stands in a file of orders? One JSON object a line; a bad line is a reason, not an error.

A file may be larger than memory and a line longer than anybody means: of both only a piece is
held at a time.
"""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import ValidationError

from eventsaga.demo.order import OrderRequest

MAX_LINE: Final = 200_000  # bytes

_CHUNK: Final = 65_536
_BOM: Final = b"\xef\xbb\xbf"
_STDIN: Final = 0
_MOST_PROBLEMS: Final = 3


class BadLineError(Exception):
    """A line that is no order; says why."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it stands in the file.

    Attributes:
        number: Counts from 1.
        content: Without the line's end; more than `MAX_LINE` bytes are cut off one after it.
    """

    number: int
    content: bytes

    def parse(self) -> OrderRequest | None:
        """Return the order; None if the line is blank.

        Raises:
            BadLineError: If it is no order.
        """
        if len(self.content) > MAX_LINE:
            raise BadLineError(f"longer than {MAX_LINE:,} bytes")
        content = self.content.removeprefix(_BOM) if self.number == 1 else self.content
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise BadLineError(f"not UTF-8: {error.reason} at byte {error.start + 1}") from error
        if not text.strip():
            return None
        try:
            return OrderRequest.model_validate_json(text)
        except ValidationError as error:
            raise BadLineError(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    """Return what is wrong where, without repeating what stands there."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    if problems[0]["type"] == "json_invalid":
        return f"not JSON: {problems[0]['msg'].removeprefix('Invalid JSON: ')}"
    said = [
        ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))
        for problem in problems[:_MOST_PROBLEMS]
    ]
    more = len(problems) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")


class Source:
    """A file of orders, or standard input. Use it with ``with``.

    Args:
        name: How people call it.
        fd: What to read; closed at the end, unless it is standard input.

    Attributes:
        name: How people call it.
        size: Bytes; None if nobody knows.
        read: Bytes read so far.
    """

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.read = 0
        self._fd = fd
        status = os.fstat(fd)
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open *path*; ``-`` is standard input.

        Raises:
            OSError: If it cannot be read.
        """
        if str(path) == "-":
            return cls("standard input", _STDIN)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise IsADirectoryError(0, "it is a directory", str(path))
        return cls(str(path), fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._fd != _STDIN:
            os.close(self._fd)

    async def lines(self) -> AsyncGenerator[Line]:
        """Yield the lines one by one; the last one need not end.

        Raises:
            OSError: If reading fails.
        """
        number, pending = 0, bytearray()
        while chunk := await self._next_chunk():
            self.read += len(chunk)
            *ended, rest = chunk.split(b"\n")
            for part in ended:
                number += 1
                yield Line(number, bytes(pending + part)[: MAX_LINE + 1])
                pending.clear()
            pending += rest[: MAX_LINE + 1 - len(pending)]
        if pending:
            yield Line(number + 1, bytes(pending))

    async def _next_chunk(self) -> bytes:
        await _until_readable(self._fd)
        return os.read(self._fd, _CHUNK)


async def _until_readable(fd: int) -> None:
    """Return when *fd* has something to read, without a thread that Ctrl-C could not stop."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(fd, readable.set)
    except PermissionError:
        return  # a file on a disk, which is never waited for
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
