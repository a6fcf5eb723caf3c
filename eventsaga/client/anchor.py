"""Is the end of a history still there? Signed copies of all heads, kept where nobody rewrites them.

A chain of hashes shows every change but one: whoever may write tables can cut off its end, or
forge a whole chain anew, and make the row fit. An anchor is the proof of what was there: one
line a saga, with the number and the hash of its last event, and at the end a statement over
all of them, the root of a Merkle tree, signed with Ed25519. Keep it, and the signing key,
where those who may write tables may not.
"""

import base64
import gzip
import io
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO
from uuid import UUID

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from eventsaga.errors import AnchorError
from eventsaga.store.examine import CHAIN, Violation
from eventsaga.store.postgres.sql import qualify
from eventsaga.wire.merkle import MerkleTree

if TYPE_CHECKING:
    from eventsaga.store.postgres.store import PostgresStore

FORMAT: Final = "eventsaga-anchor/1"

_PAGE: Final = 5000
_FIRST: Final = UUID(int=0)

HEADS: Final = """
SELECT saga_id, last_seq, last_hash
  FROM eventsaga.sagas
 WHERE saga_id > $1::uuid
 ORDER BY saga_id
 LIMIT $2
"""

# What is stored at the places of a page of heads; NULL where nothing is.
STORED: Final = """
SELECT g.saga_id, g.seq, g.hash AS anchored, e.hash AS stored,
       (SELECT max(t.seq) FROM eventsaga.events t WHERE t.saga_id = g.saga_id) AS last_seq
  FROM unnest($1::uuid[], $2::int[], $3::bytea[]) AS g(saga_id, seq, hash)
  LEFT JOIN eventsaga.events e ON e.saga_id = g.saga_id AND e.seq = g.seq
 WHERE e.hash IS DISTINCT FROM g.hash
   -- What was archived as it was anchored, or after it had gone on, is not here any more.
   AND NOT EXISTS (SELECT FROM eventsaga.archived_sagas a
                    WHERE a.saga_id = g.saga_id AND (a.last_seq > g.seq OR a.last_hash = g.hash)
                      AND NOT EXISTS (SELECT FROM eventsaga.sagas s WHERE s.saga_id = g.saga_id))
 ORDER BY g.saga_id
"""

Progress = Callable[[int], None]
"""Takes the number of sagas that are done."""


class Head(NamedTuple):
    """Where the history of a saga ends."""

    saga_id: UUID
    seq: int
    hash: bytes

    def leaf(self) -> bytes:
        """Return what stands for it in the tree."""
        return self.saga_id.bytes + self.seq.to_bytes(4, "big") + self.hash

    def line(self) -> str:
        """Return it as it stands in an anchor."""
        return f"{self.saga_id} {self.seq} {self.hash.hex()}\n"

    @classmethod
    def read(cls, line: str) -> "Head":
        """Return the head that *line* is.

        Raises:
            ValueError: If it is none.
        """
        saga_id, seq, digest = line.split()
        return cls(UUID(saga_id), int(seq), bytes.fromhex(digest))


@dataclass(frozen=True, slots=True)
class Statement:
    """What an anchor says, and who says it.

    Attributes:
        taken_at: When the first head was read.
        sagas: How many heads there are.
        root: Hash over all of them, in hexadecimal digits.
        public_key: The signer's, raw, in hexadecimal digits.
    """

    taken_at: datetime
    sagas: int
    root: str
    public_key: str

    def signed_bytes(self) -> bytes:
        """Return the text that is signed."""
        said: dict[str, Any] = {
            "format": FORMAT,
            "taken_at": self.taken_at.isoformat(),
            "sagas": self.sagas,
            "root": self.root,
            "public_key": self.public_key,
        }
        return json.dumps(said, separators=(",", ":"), sort_keys=True).encode()


# -- keys ---------------------------------------------------------------------------------


def create_key(path: Path) -> Path:
    """Write a new signing key to *path*, its public half beside it, and return where that is.

    Raises:
        AnchorError: If one of the files is there already, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public = key.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    )
    beside = path.with_name(path.name + ".pub")
    try:
        for file, content, mode in ((path, private, 0o600), (beside, public, 0o644)):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as new:
                new.write(content)
    except OSError as error:
        raise AnchorError(f"the key cannot be written: {error}") from error
    return beside


def load_key(path: Path) -> Ed25519PrivateKey:
    """Return the signing key that *path* holds.

    Raises:
        AnchorError: If it holds none.
    """
    key = _loaded(path, lambda data: form.load_pem_private_key(data, password=None))
    if not isinstance(key, Ed25519PrivateKey):
        raise AnchorError(f"{path} holds no Ed25519 signing key")
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Return the key that *path* holds, with which signatures are checked.

    Raises:
        AnchorError: If it holds none.
    """
    key = _loaded(path, form.load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise AnchorError(f"{path} holds no Ed25519 public key")
    return key


def _loaded(path: Path, load: Callable[[bytes], object]) -> object:
    try:
        return load(path.read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AnchorError(f"{path} holds no key that can be read: {error}") from error


def _raw(key: Ed25519PublicKey) -> str:
    return key.public_bytes_raw().hex()


# -- writing ------------------------------------------------------------------------------


async def take(
    store: "PostgresStore",
    target: str,
    key: Ed25519PrivateKey,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Statement:
    """Write the heads of all sagas to *target*, signed; workers may go on meanwhile.

    Args:
        store: An open store.
        target: A file, or a URL that fsspec writes to, such as ``s3://bucket/name``; with
            ``.gz`` at its end it is compressed. Nothing stands there until all of it does.
        key: Signs.
        force: Whether to replace what is there.
        progress: Called after each page.

    Raises:
        AnchorError: If *target* cannot be written, or is there already.
        DatabaseUnavailableError: If the database cannot be reached any more.
    """
    taken_at, tree = datetime.now(UTC), MerkleTree()
    with _written(target, force=force) as out:
        async for head in _heads(store):
            tree.add(head.leaf())
            out.write(head.line())
            if progress is not None and tree.size % _PAGE == 0:
                progress(tree.size)
        statement = Statement(taken_at, tree.size, tree.root().hex(), _raw(key.public_key()))
        signature = base64.b64encode(key.sign(statement.signed_bytes())).decode()
        last = {**json.loads(statement.signed_bytes()), "signature": signature}
        out.write(json.dumps(last) + "\n")
    return statement


async def _heads(store: "PostgresStore") -> AsyncIterator[Head]:
    """Yield where each saga ends, by id; those that are started meanwhile may be left out."""
    sql, after = qualify(HEADS, store.settings.schema), _FIRST
    while True:
        async with store.connection() as connection:
            rows = await connection.fetch(sql, after, _PAGE)
        for row in rows:
            yield Head(*row)
        if len(rows) < _PAGE:
            return
        after = rows[-1]["saga_id"]


@contextmanager
def _written(target: str, *, force: bool) -> Generator[TextIO]:
    """Give a file to write to, which becomes *target* at the end, if it comes to that."""
    try:
        if "://" in target:
            with _remote(target, "wb", force=force) as raw, _as_text(raw, target) as text:
                yield text
            return
        path = Path(target)
        if path.exists() and not force:
            raise AnchorError(f"{target} is there already")
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with unfinished.open("wb") as raw:
                with _as_text(raw, target) as text:
                    yield text
                raw.flush()
                os.fsync(raw.fileno())
            unfinished.replace(path)
        finally:
            with suppress(FileNotFoundError):
                unfinished.unlink()
    except OSError as error:
        raise AnchorError(f"{target} cannot be written: {error}") from error


@contextmanager
def _as_text(raw: Any, target: str) -> Generator[TextIO]:
    packed = gzip.GzipFile(fileobj=raw, mode="wb") if target.endswith(".gz") else raw
    text = io.TextIOWrapper(packed, encoding="ascii", write_through=False)
    yield text
    text.flush()
    text.detach()
    if packed is not raw:
        packed.close()


def _remote(target: str, mode: str, *, force: bool = True) -> Any:
    try:
        fsspec: Any = import_module("fsspec")
    except ImportError as error:
        raise AnchorError(
            f"{target} needs fsspec, and for S3 s3fs: pip install 'eventsaga[s3]'"
        ) from error
    system, path = fsspec.core.url_to_fs(target)
    if not force and system.exists(path):
        raise AnchorError(f"{target} is there already")
    return system.open(path, mode)


# -- checking -----------------------------------------------------------------------------


async def check(
    store: "PostgresStore",
    source: str,
    public_key: Ed25519PublicKey | None = None,
) -> AsyncGenerator[Violation]:
    """Yield where what an anchor proves is not there any more.

    Args:
        store: An open store.
        source: What `take` wrote.
        public_key: The signer's; None to believe the one in the anchor, which somebody who
            replaced the whole file would have replaced too.

    Raises:
        AnchorError: If *source* cannot be read, is not whole, or is not signed by that key.
        DatabaseUnavailableError: If the database cannot be reached any more.
    """
    # Read twice: nothing in it is believed before the signature is seen, at its end.
    statement = read_statement(source, public_key)
    sql = qualify(STORED, store.settings.schema)
    for page in _pages(source):
        async with store.connection() as connection:
            rows = await connection.fetch(sql, *map(list, zip(*page, strict=True)))
        for row in rows:
            yield _violation(row, statement)


def _violation(row: Any, statement: Statement) -> Violation:
    when = f"{statement.taken_at:%Y-%m-%d %H:%M} UTC"
    saga_id, seq, last = row["saga_id"], row["seq"], row["last_seq"]
    if last is None:
        message = f"the anchor of {when} has {seq} events of it, and there are none"
        return Violation(saga_id, None, CHAIN, message)
    if row["stored"] is None:
        message = f"its end is cut off: the anchor of {when} knows event {seq}"
        return Violation(saga_id, min(last + 1, seq), CHAIN, message)
    message = f"it is another event than the anchor of {when} knows: history was written anew"
    return Violation(saga_id, seq, CHAIN, message)


def read_statement(source: str, public_key: Ed25519PublicKey | None = None) -> Statement:
    """Return what the anchor *source* says, if its lines, its root and its signature fit.

    Raises:
        AnchorError: If one does not, or *source* cannot be read.
    """
    tree, last = MerkleTree(), ""
    with _read(source) as lines:
        for line in lines:
            if line.startswith("{"):
                last = line
                break
            try:
                tree.add(Head.read(line).leaf())
            except (ValueError, OverflowError) as error:
                raise AnchorError(f"{source}, line {tree.size + 1}: no head of a saga") from error
    if not last:
        raise AnchorError(f"{source} is not whole: its signed end is missing")
    statement = _signed(source, last, public_key)
    if (statement.sagas, statement.root) != (tree.size, tree.root().hex()):
        raise AnchorError(f"{source} was changed: its heads are not those that were signed")
    return statement


def _signed(source: str, line: str, public_key: Ed25519PublicKey | None) -> Statement:
    try:
        said = json.loads(line)
        if said["format"] != FORMAT:
            raise AnchorError(f"{source} is no anchor of this kind: {str(said['format'])[:40]!r}")
        taken_at = datetime.fromisoformat(said["taken_at"])
        statement = Statement(taken_at, said["sagas"], said["root"], said["public_key"])
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(statement.public_key))
        signature = base64.b64decode(said["signature"], validate=True)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AnchorError(f"{source}: its signed end cannot be read: {error!r}") from error
    if public_key is not None and _raw(public_key) != statement.public_key:
        raise AnchorError(f"{source} is signed by another key: {statement.public_key}")
    try:
        key.verify(signature, statement.signed_bytes())
    except InvalidSignature:
        raise AnchorError(f"{source} was changed: its signature does not fit") from None
    return statement


def _pages(source: str) -> Iterator[list[Head]]:
    with _read(source) as lines:
        heads = (Head.read(line) for line in lines if not line.startswith("{"))
        while page := list(islice(heads, _PAGE)):
            yield page


@contextmanager
def _read(source: str) -> Generator[TextIO]:
    try:
        with _remote(source, "rb") if "://" in source else Path(source).open("rb") as raw:
            packed = gzip.GzipFile(fileobj=raw) if source.endswith(".gz") else raw
            with io.TextIOWrapper(packed, encoding="ascii") as text:
                yield text
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise AnchorError(f"{source} cannot be read: {error}") from error
