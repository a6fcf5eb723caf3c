"""Does an anchor find what tables alone cannot tell, and is it believed only as it was signed?"""

import gzip
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsaga import Orchestrator, Saga, Step
from eventsaga.client import anchor as anchors
from eventsaga.client.verify import verify
from eventsaga.errors import AnchorError
from eventsaga.store.archive.file import ArchiveFile
from eventsaga.store.postgres.archive import IntoFile, archive
from eventsaga.store.postgres.rebuild import rebuild
from eventsaga.wire.merkle import MerkleTree
from tests.conftest import execute
from tests.runtime.sagas import Order, orchestrating
from tests.store.vandal import Vandal

# ruff: noqa: ASYNC240 - files of the test's own


async def note(order: Order) -> dict[str, str]:
    return {"note": f"{order.note}+"}


PLAIN = Saga("plain", context=Order, steps=[Step("note", note), Step("again", note)])


@pytest.fixture
async def shop(database: str) -> AsyncIterator[Orchestrator]:
    async with orchestrating(database, PLAIN) as orchestrator:
        yield orchestrator


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "audit.key"
    anchors.create_key(path)
    return path


async def ran(shop: Orchestrator, count: int = 3) -> list[UUID]:
    handles = await shop.start_many(PLAIN, [Order()] * count)
    for handle in handles:
        await handle.result(timeout=20)
    return [handle.id for handle in handles]


async def taken(shop: Orchestrator, key: Path, name: str = "anchor") -> str:
    target = str(key.parent / name)
    await anchors.take(shop.store, target, anchors.load_key(key))
    return target


async def found(shop: Orchestrator, source: str, key: Path) -> list[tuple[UUID, int | None]]:
    public = anchors.load_public_key(key.with_name("audit.key.pub"))
    return [
        (violation.saga_id, violation.seq)
        async for violation in anchors.check(shop.store, source, public)
    ]


@pytest.mark.parametrize("name", ["anchor", "anchor.gz"])
async def test_what_goes_on_after_an_anchor_is_none_of_its_business(
    shop: Orchestrator, key: Path, name: str
) -> None:
    ids = await ran(shop)
    source = await taken(shop, key, name)

    await shop.undo(ids[0], reason="r", actor="a")
    await ran(shop)

    assert await found(shop, source, key) == []
    assert anchors.read_statement(source).sagas == 3
    head = Path(source).read_bytes()
    text = gzip.decompress(head) if name.endswith(".gz") else head
    assert [line.split()[0] for line in text.decode().splitlines()[:3]] == sorted(map(str, ids))


@pytest.mark.mighty
async def test_what_was_archived_as_it_was_anchored_is_not_lost(
    database: str, shop: Orchestrator, key: Path
) -> None:
    ids = await ran(shop)
    source = await taken(shop, key)
    await shop.undo(ids[0], reason="r", actor="a")
    await shop.drain()
    await execute(database, "UPDATE eventsaga.sagas SET owner = NULL, wake_at = NULL")

    with ArchiveFile(key.parent / "sagas.jsonl.gz") as file:
        moving = archive(shop.store, IntoFile(file), older_than=timedelta(0))
        assert sum([outcome.sagas async for outcome in moving]) == 3
    assert await found(shop, source, key) == []

    vandal = Vandal(database)
    await vandal.edit("UPDATE eventsaga.archived_sagas SET last_seq = 1 WHERE saga_id = $1", ids[1])
    await vandal.edit(
        "UPDATE eventsaga.archived_sagas SET last_hash = '' WHERE saga_id = $1", ids[1]
    )
    assert [saga_id for saga_id, _ in await found(shop, source, key)] == [ids[1]]


# What nothing in the tables tells any more, once the row was made to fit.
CUT = "DELETE FROM eventsaga.events WHERE saga_id = $1 AND seq > 3"
GONE = """
WITH row AS (DELETE FROM eventsaga.sagas WHERE saga_id = $1)
DELETE FROM eventsaga.events WHERE saga_id = $1
"""
# A whole chain, forged anew by who knows the formula.
FORGED = """
DO $$
DECLARE
    e record;
    previous bytea := decode(repeat('00', 32), 'hex');
BEGIN
    UPDATE eventsaga.events SET data = replace(data::text, '+', '-')::json WHERE saga_id = '{id}';
    UPDATE eventsaga.sagas SET context = replace(context::text, '+', '-')::json
     WHERE saga_id = '{id}';
    FOR e IN SELECT * FROM eventsaga.events WHERE saga_id = '{id}' ORDER BY seq LOOP
        previous := eventsaga.link(previous, e.saga_id, e.seq, e.type, e.occurred_at,
                                   eventsaga.digest(e.salt, e.data::text));
        UPDATE eventsaga.events SET hash = previous WHERE saga_id = e.saga_id AND seq = e.seq;
        UPDATE eventsaga.sagas SET last_hash = previous WHERE saga_id = e.saga_id;
    END LOOP;
END $$
"""


async def test_a_cut_tail_a_lost_saga_and_a_forged_chain_are_named(
    database: str, key: Path
) -> None:
    async with orchestrating(database, PLAIN) as shop:
        cut, gone, forged, _left = await ran(shop, 4)
        source = await taken(shop, key)
    vandal = Vandal(database)
    async with orchestrating(database, worker=False) as watched:
        ended = (await watched.history(forged))[-1].seq
        await vandal.edit(CUT, cut)
        await vandal.edit(GONE, gone)
        await vandal.edit(FORGED.replace("{id}", str(forged)))

        assert [r.refused async for r in rebuild(watched.store, [cut], force=True)] == [None]

        # The chain itself knows nothing of it; only the start of a saga that is gone may.
        assert [v.saga_id async for v in verify(watched.store)] == []
        assert sorted(await found(watched, source, key), key=str) == sorted(
            [(cut, 4), (gone, None), (forged, ended)], key=str
        )


async def test_an_anchor_that_was_changed_is_not_believed(shop: Orchestrator, key: Path) -> None:
    await ran(shop)
    source = Path(await taken(shop, key))
    lines = source.read_text().splitlines(keepends=True)
    said = json.loads(lines[-1])
    changes = {
        "a head less": [*lines[1:]],
        "a head changed": [lines[0].replace(" 7 ", " 6 ").replace(" 6 ", " 5 "), *lines[1:]],
        "no end": lines[:-1],
        "an end of less": [*lines[:-1], json.dumps({**said, "sagas": 2})],
        "another root": [*lines[:-1], json.dumps({**said, "root": "00" * 32})],
        "another time": [*lines[:-1], json.dumps({**said, "taken_at": "2026-01-01T00:00:00"})],
        "no signature": [*lines[:-1], json.dumps({**said, "signature": ""})],
        "another kind": [*lines[:-1], json.dumps({**said, "format": "other"})],
        "rubbish": ["\x00rubbish\n"],
        "nothing": [],
        "a list": ["{[]}"],
    }
    for change, content in changes.items():
        source.write_text("".join(content))
        try:
            await found(shop, str(source), key)
        except AnchorError:
            continue
        pytest.fail(f"{change} is believed")


async def test_the_key_that_signed_is_the_one_that_is_meant(
    shop: Orchestrator, key: Path, tmp_path: Path
) -> None:
    """Who replaces an anchor replaces the key in it, too."""
    source = await taken(shop, key)
    other = anchors.create_key(tmp_path / "other.key")

    with pytest.raises(AnchorError, match="signed by another key"):
        anchors.read_statement(source, anchors.load_public_key(other))
    for path in (tmp_path / "nothing", key.with_name("audit.key.pub"), Path(__file__)):
        with pytest.raises(AnchorError):
            anchors.load_key(path)
    with pytest.raises(AnchorError):
        anchors.load_public_key(key)
    with pytest.raises(AnchorError, match="cannot be written"):
        anchors.create_key(key)
    assert key.stat().st_mode & 0o077 == 0


async def test_what_is_there_is_replaced_only_if_that_is_meant(
    shop: Orchestrator, key: Path
) -> None:
    source = await taken(shop, key)
    before = Path(source).read_text()

    with pytest.raises(AnchorError, match="is there already"):
        await taken(shop, key)
    await anchors.take(shop.store, source, anchors.load_key(key), force=True)

    assert Path(source).read_text() != before
    with pytest.raises(AnchorError, match="cannot be written"):
        await taken(shop, key, "no/such/folder")
    assert sorted(path.name for path in key.parent.iterdir()) == [
        "anchor",
        "audit.key",
        "audit.key.pub",
    ]


async def test_a_url_is_written_to_by_fsspec(shop: Orchestrator, key: Path) -> None:
    await ran(shop)
    target = f"file://{key.parent}/by-url.gz"

    await anchors.take(shop.store, target, anchors.load_key(key))

    assert await found(shop, target, key) == []
    with pytest.raises(AnchorError, match="is there already"):
        await anchors.take(shop.store, target, anchors.load_key(key))


def by_definition(leaves: list[bytes]) -> bytes:
    """Return the root as RFC 6962 defines it."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = by_definition(leaves[:half]), by_definition(leaves[half:])
    return sha256(b"\x01" + left + right).digest()


@given(st.lists(st.binary(max_size=3), max_size=40))
def test_the_root_is_that_of_the_definition(leaves: list[bytes]) -> None:
    tree = MerkleTree()
    for leaf in leaves:
        tree.add(leaf)
    assert tree.root() == by_definition(leaves)
