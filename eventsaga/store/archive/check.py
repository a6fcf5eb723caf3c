"""Is an archive what was written? Each saga's chain, and that none is missing between others.

Not seen, because nothing in the file says so: batches that were cut off at its end. The table
``archived_sagas`` knows all that ever left the database, and how their chains ended.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import UUID

from eventsaga.errors import ArchiveError
from eventsaga.store.archive.lines import (
    FIRST,
    Archived,
    BatchEnd,
    Head,
    read_line,
)
from eventsaga.store.examine import EventRecord, read_history, shortened
from eventsaga.wire.chain import GENESIS

# No event of ours comes near to it.
_LONGEST_LINE: Final = 1 << 26


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is not as it was written.

    Attributes:
        saga_id: The saga; None if it is the file.
        seq: The event; None if it is the saga as a whole.
        message: What is wrong.
    """

    saga_id: UUID | None
    seq: int | None
    message: str

    def __str__(self) -> str:
        who = "" if self.saga_id is None else f"saga {self.saga_id}"
        where = "" if self.seq is None else f", event {self.seq}"
        return f"{who}{where}: {self.message}".removeprefix(": ")


def check(path: Path) -> Iterator[Archived | Flaw]:
    """Yield each saga of a file behind its flaws, and the flaws of the file itself.

    One saga is in memory at a time. A saga may come twice: a process died before it had
    removed it, and it was written again.

    Raises:
        ArchiveError: If the file cannot be opened.
    """
    records: list[EventRecord] = []
    batch, lines, sagas = sha256(FIRST), 0, 0
    try:
        for number, line in enumerate(_lines(path), 1):
            read = _read(line, number)
            match read:
                case EventRecord():
                    records.append(read)
                case Head():
                    yield from _saga(read, records)
                    records, sagas = [], sagas + 1
                case BatchEnd():
                    yield from _batch(read, number, sagas, batch.digest(), records)
                    records, batch, lines, sagas = [], sha256(read.digest), 0, 0
                    continue
                case Flaw():
                    yield read
            batch.update(line)
            lines += 1
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield Flaw(None, None, f"it ends in the middle of a batch, or is damaged: {error}")
        return
    if lines:
        yield Flaw(None, None, "its last batch has no end")


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            # A few bytes may unpack to more than there is memory.
            while line := file.readline(_LONGEST_LINE):
                yield _bounded(line)
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise ArchiveError(str(path), error.strerror or repr(error)) from error


def _bounded(line: bytes) -> bytes:
    if len(line) == _LONGEST_LINE:
        raise gzip.BadGzipFile(f"a line is longer than {_LONGEST_LINE:,} bytes")
    return line


def _read(line: bytes, number: int) -> EventRecord | Head | BatchEnd | Flaw:
    try:
        return read_line(line.decode())
    except ValueError as error:
        return Flaw(None, None, f"line {number} is {error}")


def _saga(head: Head, records: Sequence[EventRecord]) -> Iterator[Archived | Flaw]:
    strangers = [record for record in records if record.saga_id != head.saga_id]
    for record in strangers:
        message = f"it stands among the events of saga {head.saga_id}"
        yield Flaw(record.saga_id, record.seq, message)
    own = [record for record in records if record.saga_id == head.saga_id]
    found = list(read_history(head.saga_id, own).violations)
    for violation in shortened(head.saga_id, found):
        yield Flaw(violation.saga_id, violation.seq, violation.message)
    last = own[-1].hash if own else GENESIS
    if len(own) != head.events:
        message = f"its head counts {head.events} events, there are {len(own)}"
        yield Flaw(head.saga_id, min(len(own), head.events) + 1, message)
    elif last != head.head:
        yield Flaw(head.saga_id, head.events, "its head has another hash than its last event")
    if own:
        yield Archived(own, head.start_key)


def _batch(
    end: BatchEnd, number: int, sagas: int, digest: bytes, left: Sequence[EventRecord]
) -> Iterator[Flaw]:
    if left:
        yield Flaw(left[0].saga_id, left[0].seq, "its saga has no head")
    if digest != end.digest:
        count = "" if sagas == end.sagas else f": it had {end.sagas} sagas, there are {sagas}"
        message = f"the batch that ends at line {number} is not as it was written{count}"
        yield Flaw(None, None, message)
