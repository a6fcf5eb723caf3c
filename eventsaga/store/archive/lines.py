"""What stands on a line? An event as it was stored, the head of a saga, or the end of a batch.

A saga is its events in order and then its head: how many there are, the hash of the last, and
its start key. A batch ends with a digest of its lines and of the digest before it, so that a
saga that is taken out, or two that change places, are seen as well as an event that does.

The data of an event is the text that was hashed, byte for byte, and stands last in its line:
parsed and written again it would have another hash.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple
from uuid import UUID

from eventsaga.store.examine import EventRecord

FIRST: Final = bytes(32)
"""What the digest of the first batch follows."""

_DATA: Final = ',"data":'


class StartKey(NamedTuple):
    """What a saga was started with, once: kept beside it for another database."""

    saga_name: str
    key: str
    input_digest: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a saga in a file.

    Attributes:
        saga_id: The saga.
        events: How many there are.
        head: Hash of the last.
        start_key: None if it has none.
    """

    saga_id: UUID
    events: int
    head: bytes
    start_key: StartKey | None = None


@dataclass(frozen=True, slots=True)
class BatchEnd:
    """The end of a batch in a file.

    Attributes:
        sagas: How many it has.
        digest: Of its lines, behind that of the batch before it.
    """

    sagas: int
    digest: bytes


class Archived(NamedTuple):
    """A saga as it is archived."""

    records: Sequence[EventRecord]
    start_key: StartKey | None

    @property
    def saga_id(self) -> UUID:
        """The saga."""
        return self.records[0].saga_id

    @property
    def head(self) -> Head:
        """How it ends."""
        last = self.records[-1]
        return Head(last.saga_id, len(self.records), last.hash, self.start_key)


def batch_lines(sagas: Iterable[Archived], previous: bytes) -> tuple[bytes, bytes]:
    """Return the lines of a batch, and its digest.

    Args:
        sagas: At least one.
        previous: Digest of the batch before; `FIRST` if there is none.
    """
    lines, count = list[str](), 0
    for saga in sagas:
        lines += map(event_line, saga.records)
        lines.append(_head_line(saga.head))
        count += 1
    text = "".join(f"{line}\n" for line in lines).encode()
    digest = sha256(previous + text).digest()
    end = json.dumps({"sagas": count, "digest": digest.hex()}, separators=(",", ":"))
    return text + f"{end}\n".encode(), digest


def event_line(record: EventRecord) -> str:
    """Return an event as a line; its data must be there, and without line breaks."""
    fields = {
        **record._asdict(),
        "saga_id": str(record.saga_id),
        "occurred_at": _instant(record.occurred_at),
        "recorded_at": _instant(record.recorded_at),
        "worker_id": None if record.worker_id is None else str(record.worker_id),
        "salt": None if record.salt is None else record.salt.hex(),
        "hash": record.hash.hex(),
        "digest": None if record.digest is None else record.digest.hex(),
    }
    del fields["data"]
    data = "null" if record.data is None else record.data
    return json.dumps(fields, separators=(",", ":"))[:-1] + f"{_DATA}{data}}}"


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _head_line(head: Head) -> str:
    key = head.start_key
    fields = {
        "saga_id": str(head.saga_id),
        "events": head.events,
        "head": head.head.hex(),
        "start_key": None if key is None else {**key._asdict(), "input_digest": key[2].hex()},
    }
    return json.dumps(fields, separators=(",", ":"))


def read_line(line: str) -> EventRecord | Head | BatchEnd:
    """Return what stands on *line*.

    Raises:
        ValueError: If it is none of the three.
    """
    try:
        if _DATA in line:
            return _event(line)
        fields = json.loads(line)
        if "digest" in fields:
            return BatchEnd(int(fields["sagas"]), bytes.fromhex(fields["digest"]))
        return _head(fields)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"no line of an archive: {error!r}") from error


def _event(line: str) -> EventRecord:
    # In front of it are names, numbers and hashes: a quote there would have a backslash.
    front, _, data = line.rstrip("\n").partition(_DATA)
    fields = json.loads(f"{front}}}")
    if not data.endswith("}"):
        raise ValueError("it has no end")
    text = data[:-1]
    worker, salt, digest = fields["worker_id"], fields["salt"], fields["digest"]
    return EventRecord(
        saga_id=UUID(fields["saga_id"]),
        seq=int(fields["seq"]),
        type=str(fields["type"]),
        schema_version=int(fields["schema_version"]),
        data=None if text == "null" else text,
        occurred_at=_read_instant(fields["occurred_at"]),
        recorded_at=_read_instant(fields["recorded_at"]),
        worker_id=None if worker is None else UUID(worker),
        salt=None if salt is None else bytes.fromhex(salt),
        hash=bytes.fromhex(fields["hash"]),
        digest=None if digest is None else bytes.fromhex(digest),
    )


def _read_instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text} has no timezone")
    return at


def _head(fields: Mapping[str, Any]) -> Head:
    key = fields["start_key"]
    return Head(
        UUID(fields["saga_id"]),
        int(fields["events"]),
        bytes.fromhex(fields["head"]),
        None
        if key is None
        else StartKey(str(key["saga_name"]), str(key["key"]), bytes.fromhex(key["input_digest"])),
    )
