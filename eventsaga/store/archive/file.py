"""How is an archive written, so that nothing is lost whenever the process dies?

A batch is a gzip member of its own, behind the others: all of them together are one gzip file,
for ``zcat`` too. It is on the disk before anything is removed from the tables. A process that
dies while it writes leaves a member without an end; the next one cuts that off, because its
sagas are still in the tables.
"""

import fcntl
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, Self

from eventsaga import failpoints
from eventsaga.errors import ArchiveError
from eventsaga.store.archive.lines import FIRST, Archived, BatchEnd, Head, batch_lines, read_line

_CHUNK: Final = 1 << 20
_GZIP: Final = 31  # window bits, with the header and the trailer of a gzip member


class ArchiveFile:
    """A file to which batches are added. Use it with ``with``: nobody else can, meanwhile.

    Attributes:
        last: The sagas of the last batch that was in it before, as far as they are complete:
            whoever wrote them may have died before they were removed.

    Args:
        path: The file; made if it is not there.

    Raises:
        ArchiveError: If somebody else writes it, or it is no archive, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: Sequence[Head] = ()
        self._digest = FIRST
        self._file: IO[bytes]

    def __enter__(self) -> Self:
        try:
            self._file = self.path.open("a+b")
        except OSError as error:
            raise ArchiveError(str(self.path), error.strerror or repr(error)) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._resume()
        except BlockingIOError as error:
            self._file.close()
            raise ArchiveError(str(self.path), "another process writes it") from error
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    async def add(self, sagas: Sequence[Archived]) -> None:
        """Write *sagas* as a batch; on return they are on the disk, whatever happens.

        Raises:
            ArchiveError: If that fails; then nothing may be removed.
        """
        text, digest = batch_lines(sagas, self._digest)
        member = gzip.compress(text, mtime=0)
        try:
            if failpoints.armed:
                await failpoints.reach("before_archive_write")
                self._file.write(member[: len(member) // 2])
                self._file.flush()
                await failpoints.reach("during_archive_write")
                self._file.write(member[len(member) // 2 :])
            else:
                self._file.write(member)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ArchiveError(str(self.path), error.strerror or repr(error)) from error
        self._digest = digest
        if failpoints.armed:
            await failpoints.reach("after_archive_write")

    def _resume(self) -> None:
        """Go to the end of what is complete, and cut off what is not."""
        complete = 0
        for text, end in _members(self._file, str(self.path)):
            complete = end
            *heads, last = _ends(text, str(self.path))
            assert isinstance(last, BatchEnd)
            self.last = [head for head in heads if isinstance(head, Head)]
            self._digest = last.digest
        self._file.truncate(complete)
        os.fsync(self._file.fileno())
        # The name of a new file is on the disk only when its directory is.
        directory = os.open(self.path.resolve().parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _members(file: IO[bytes], path: str) -> Iterator[tuple[bytes, int]]:
    """Yield the text of each complete member, and where in the file it ends."""
    file.seek(0)
    rest, end = b"", 0
    while True:
        member = zlib.decompressobj(_GZIP)
        parts: list[bytes] = []
        while not member.eof:
            chunk = rest or file.read(_CHUNK)
            rest = b""
            if not chunk:
                return  # without an end: its writer died
            end += len(chunk)
            try:
                parts.append(member.decompress(chunk))
            except zlib.error as error:
                raise ArchiveError(path, f"it is no archive, or damaged: {error}") from error
        rest = member.unused_data
        end -= len(rest)
        yield b"".join(parts), end


def _ends(text: bytes, path: str) -> list[Head | BatchEnd]:
    """Return the heads in a batch, and at last its end."""
    try:
        # Not splitlines: texts of users may hold what Unicode calls the end of a line.
        lines = [read_line(line) for line in text.decode().split("\n")[:-1]]
    except ValueError as error:
        raise ArchiveError(path, str(error)) from error
    ends = [line for line in lines if isinstance(line, Head | BatchEnd)]
    if not lines or not isinstance(lines[-1], BatchEnd):
        raise ArchiveError(path, "it was packed by something else: write to another file")
    return ends
