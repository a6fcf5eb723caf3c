"""How is a history linked? By a hash that PostgreSQL computes from the columns alone."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsaga.core.events import SagaCancelRequested, SagaEvent
from eventsaga.store.postgres.rows import EventRow, event_rows
from eventsaga.wire.chain import GENESIS, SALT_BYTES, link, salted
from tests.wire.samples import AT, SAMPLES
from tests.wire.strategies import EVENTS, INSTANTS, TEXTS

# What an auditor would type: no function but those that every PostgreSQL has.
BY_SQL = """
SELECT sha256($1::bytea || uuid_send($2::uuid) || int4send($3::int) || convert_to($4, 'UTF8')
              || timestamptz_send($5::timestamptz)
              || sha256($6::bytea || convert_to($7::json::text, 'UTF8')))
"""

Query = Callable[..., Any]


@pytest.fixture(scope="module")
def query(server_url: str) -> Iterator[Query]:
    """A function that runs one statement and returns its only value."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(server_url))

        def ask(statement: str, *arguments: Any) -> Any:
            return runner.run(connection.fetchval(statement, *arguments))

        yield ask
        runner.run(connection.close())


def by_sql(query: Query, previous: bytes, row: EventRow) -> Any:
    return query(
        BY_SQL, previous, row.saga_id, row.seq, row.type, row.occurred_at, row.salt, row.data
    )


@given(
    saga_id=st.uuids(),
    events=st.lists(EVENTS, min_size=1, max_size=4),
    after_seq=st.integers(min_value=0, max_value=2**31 - 10),
    previous=st.binary(min_size=32, max_size=32),
)
def test_plain_sql_computes_the_same_hashes(
    query: Query, saga_id: UUID, events: Sequence[SagaEvent], after_seq: int, previous: bytes
) -> None:
    rows = event_rows(saga_id, events, after_seq=after_seq, previous_hash=previous)

    for row in rows:
        previous = by_sql(query, previous, row)
        assert row.hash == previous
    assert [row.seq for row in rows] == list(range(after_seq + 1, after_seq + 1 + len(events)))


@given(at=INSTANTS)
def test_any_instant_is_hashed_in_the_form_that_postgresql_sends(
    query: Query, at: datetime
) -> None:
    """Also before 2000, where its count of microseconds is negative."""
    expected = query("SELECT timestamptz_send($1::timestamptz)", at)

    head = sha256(bytes(32) + bytes(16) + (1).to_bytes(4, "big") + b"E" + expected)
    head.update(sha256(b"salt{}").digest())

    assert link(bytes(32), UUID(int=0), 1, "E", at, salted(b"salt", b"{}")) == head.digest()


@pytest.mark.parametrize(
    "at",
    [
        datetime(2000, 1, 1, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1969, 7, 20, 20, 17, 40, 1, tzinfo=UTC),
        datetime(1600, 2, 29, tzinfo=UTC),
    ],
)
def test_the_turn_of_the_epoch_is_no_seam(query: Query, at: datetime) -> None:
    """Rounding towards zero instead of down would give another hash here."""
    (row,) = event_rows(UUID(int=1), SAMPLES[-1:], after_seq=0, previous_hash=GENESIS)
    row = row._replace(
        occurred_at=at, hash=link(GENESIS, row.saga_id, 1, row.type, at, salted(row.salt, b"{}"))
    )

    assert by_sql(query, GENESIS, row) == row.hash


@given(text=TEXTS)
def test_the_column_keeps_the_text_that_was_hashed(query: Query, text: str) -> None:
    (row,) = event_rows(
        UUID(int=1),
        [SagaCancelRequested(at=AT, reason=text, actor="ada")],
        after_seq=0,
        previous_hash=GENESIS,
    )

    assert query("SELECT $1::json::text", row.data) == row.data


BASE: dict[str, Any] = {
    "previous": bytes(32),
    "saga_id": UUID(int=1),
    "seq": 1,
    "name": "StepStarted",
    "at": AT,
    "digest": salted(b"s" * SALT_BYTES, b"{}"),
}


@pytest.mark.parametrize(
    "change",
    [
        {"previous": b"\x01" * 32},
        {"saga_id": UUID(int=2)},
        {"seq": 2},
        {"name": "StepSucceeded"},
        {"at": AT + timedelta(microseconds=1)},
        {"digest": salted(b"t" * SALT_BYTES, b"{}")},
        {"digest": salted(b"s" * SALT_BYTES, b"[]")},
    ],
    ids=["previous", "saga_id", "seq", "name", "at", "salt", "data"],
)
def test_every_part_of_an_event_changes_its_hash(change: dict[str, Any]) -> None:
    """A field that is not covered could be forged; each must be able to break the chain."""
    assert link(*{**BASE, **change}.values()) != link(*BASE.values())


def test_equal_events_have_different_hashes() -> None:
    """By their salts: nobody can guess a short value from the hash that stays of it."""
    event = SAMPLES[-1]

    first, second = event_rows(UUID(int=1), [event, event], after_seq=0, previous_hash=GENESIS)

    assert first.salt != second.salt
    assert len(first.salt) == SALT_BYTES
