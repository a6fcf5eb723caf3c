"""Is what a codec seals nowhere to be read, and does everything else go on as without one?"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import BaseModel

from eventsaga import (
    ChildSaga,
    ForEach,
    Orchestrator,
    PermanentError,
    Retry,
    Saga,
    SealedError,
    Step,
    StepContext,
    WaitForSignal,
)
from eventsaga.client.verify import verify
from eventsaga.core.state import Status
from eventsaga.crypto import AesGcmCodec, DirectoryKeys
from eventsaga.errors import SettingsError
from eventsaga.store.postgres.rebuild import rebuild
from eventsaga.wire import sealing
from tests.contract.test_redact import places
from tests.runtime.sagas import orchestrating, until

CANARY = "canary-ünsealed-7c1"
KEYS = {"k1": bytes(range(32)), "k2": bytes(reversed(range(32)))}
ENDED = "SELECT status = $2 FROM eventsaga.sagas WHERE saga_id = $1"


class Sale(BaseModel):
    customer: str
    email: str = CANARY
    letters: list[str] = []
    answer: Any = None


async def charge(sale: Sale) -> dict[str, Any]:
    assert sale.email == CANARY
    return {"letters": [sale.email, "x"]}


async def mail(_sale: Sale, step: StepContext) -> None:
    if step.item != CANARY:
        raise PermanentError(f"whose is this? {CANARY}")


async def refuse(_sale: Sale) -> None:
    raise PermanentError(f"no such mailbox: {CANARY}")


LETTERS = ForEach("letters", lambda sale: [sale.email] * 2, Step("mail", mail))
CHILD = Saga("child", context=Sale, steps=[Step("charge", charge), LETTERS])
SOLD = Saga(
    "sold",
    context=Sale,
    steps=[
        Step("charge", charge),
        WaitForSignal("answer", model=None, into="answer"),
        ChildSaga("child", CHILD, lambda sale: Sale(customer=sale.customer)),
    ],
)
BACK = Saga(
    "back",
    context=Sale,
    steps=[
        Step("charge", charge, compensate=charge),
        Step("refuse", refuse, retry=Retry(max_attempts=1)),
    ],
)
SAGAS = (SOLD, BACK, CHILD)


@pytest.fixture(autouse=True)
def no_codec() -> Iterator[None]:
    yield
    sealing.uninstall()


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


def codec(folder: Path | None = None, current: str = "k1") -> AesGcmCodec:
    if folder is None:
        return AesGcmCodec(KEYS, current)
    return AesGcmCodec(
        KEYS,
        current,
        subject=lambda context: context.get("customer"),
        subject_keys=DirectoryKeys(folder),
    )


async def ran(shop: Orchestrator, customer: str = "c-1") -> list[UUID]:
    sold = await shop.start(SOLD, Sale(customer=customer))
    await shop.signal(sold.id, "answer", {"said": CANARY})
    back = await shop.start(BACK, Sale(customer=customer))
    assert (await sold.result(timeout=30)).status is Status.COMPLETED
    assert (await back.result(timeout=30)).status is Status.COMPENSATED
    return [sold.id, back.id]


async def found(shop: Orchestrator) -> list[str]:
    return [str(violation) async for violation in verify(shop.store)]


@pytest.mark.parametrize("with_subjects", [False, True], ids=["one key", "a key each"])
async def test_what_is_sealed_is_nowhere_to_be_read(
    database: str, sql: asyncpg.Connection, tmp_path: Path, with_subjects: object
) -> None:
    sealing.install(codec(tmp_path if with_subjects else None))
    async with orchestrating(database, *SAGAS) as shop:
        ids = await ran(shop)
        states = [await shop.get(saga_id) for saga_id in ids]
        assert await found(shop) == []
        assert [repair async for repair in rebuild(shop.store)] == []
        rows = await shop.list()
        assert all(row.context["email"] == CANARY for row in rows)

    assert await places(sql, CANARY) == []
    assert [state.context.email for state in states] == [CANARY, CANARY]
    assert states[0].context.answer == {"said": CANARY}
    assert states[1].error is not None
    assert states[1].error.message == f"no such mailbox: {CANARY}"
    for saga_id in ids:
        assert await sql.fetch("SELECT * FROM eventsaga.verify_chain($1)", saga_id) == []
    # Names stay, so that views and filters work.
    known = json.loads(await sql.fetchval("SELECT eventsaga.context_at($1, 1)", ids[0]))
    assert set(known) == {"customer", "email", "letters", "answer"}


async def test_without_the_key_everything_is_whole_and_nothing_is_read(
    database: str, sql: asyncpg.Connection
) -> None:
    sealing.install(codec())
    async with orchestrating(database, *SAGAS) as shop:
        (sold, back) = await ran(shop)
    sealing.uninstall()

    async with orchestrating(database, *SAGAS, worker=False) as auditor:
        assert await found(auditor) == []
        state = await auditor.get(sold)
        assert state.status is Status.COMPLETED
        assert sealing.is_sealed(state.context)
        assert CANARY not in str(state)
        assert CANARY not in str(await auditor.history(back))
        assert CANARY not in str(await auditor.list())


async def test_a_worker_without_the_key_leaves_sagas_to_those_who_have_it(
    database: str, sql: asyncpg.Connection
) -> None:
    sealing.install(codec())
    async with orchestrating(database, *SAGAS, worker=False) as client:
        handle = await client.start(BACK, Sale(customer="c-1"))
    sealing.uninstall()
    async with orchestrating(database, *SAGAS):
        await until(database, "SELECT claims > 0 FROM eventsaga.sagas")
    events = await sql.fetchval("SELECT count(*) FROM eventsaga.events")
    assert events == 1, "it has begun nothing"

    sealing.install(codec())
    async with orchestrating(database, *SAGAS) as shop:
        assert (await shop.wait(handle.id, timeout=30)).status is Status.COMPENSATED


async def test_a_key_is_replaced_and_the_old_one_still_opens(database: str) -> None:
    sealing.install(codec())
    async with orchestrating(database, *SAGAS) as shop:
        handle = await shop.start(SOLD, Sale(customer="c-1"))
        await until(database, "SELECT 'answer' = ANY (current_steps) FROM eventsaga.sagas")
    sealing.uninstall()
    sealing.install(codec(current="k2"))
    async with orchestrating(database, *SAGAS) as shop:
        await shop.signal(handle.id, "answer", {})
        assert (await shop.wait(handle.id, timeout=30)).status is Status.COMPLETED
        assert await found(shop) == []
        assert (await shop.get(handle.id)).context.email == CANARY


async def test_a_key_that_is_thrown_away_leaves_nothing_to_be_read(
    database: str, tmp_path: Path
) -> None:
    sealing.install(codec(tmp_path))
    async with orchestrating(database, *SAGAS) as shop:
        (ann, *_) = await ran(shop, "c-ann")
        (bob, *_) = await ran(shop, "c-bob")
        assert len(DirectoryKeys(tmp_path)) == 2

        del DirectoryKeys(tmp_path)["c-ann"]

        assert await found(shop) == []
        assert sealing.is_sealed((await shop.get(ann)).context)
        assert (await shop.get(bob)).context.email == CANARY


def test_a_token_opens_for_its_saga_only_and_only_as_it_was(tmp_path: Path) -> None:
    sealer = codec(tmp_path)
    for subject in (None, "ann"):
        token = sealer.seal(b"data", b"one", subject)
        assert sealer.open(token, b"one") == b"data"
        assert token != sealer.seal(b"data", b"one", subject)
        for other, about in (
            (token, b"two"),
            (token[:-2] + "AA", b"one"),
            (token.replace("k1", "k2").replace("@", "@x"), b"one"),
            ("", b"one"),
            ("k1~", b"one"),
            ("@é~AAAA", b"one"),
        ):
            with pytest.raises(SealedError):
                sealer.open(other, about)


async def test_two_processes_agree_on_the_key_of_a_subject(tmp_path: Path) -> None:
    keys = [DirectoryKeys(tmp_path) for _ in range(8)]
    made = await asyncio.gather(
        *(asyncio.to_thread(each.setdefault, "ann", os.urandom(32)) for each in keys)
    )
    assert len(set(made)) == 1
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.iterdir())  # noqa: ASYNC240


def test_what_cannot_seal_is_refused() -> None:
    wrong: list[tuple[dict[str, bytes], str]] = [
        ({}, "k1"),
        ({"k1": b"short"}, "k1"),
        ({"k~": bytes(32)}, "k~"),
    ]
    for keys, current in wrong:
        with pytest.raises(SettingsError):
            AesGcmCodec(keys, current)
    with pytest.raises(SettingsError):
        AesGcmCodec(KEYS, "k1", subject=lambda _: "x")
    for reference in ("no.such:codec", "json:nothing", "json:loads", "json"):
        with pytest.raises((SettingsError, TypeError)):
            sealing.load(reference)
    sealing.install(codec())
    with pytest.raises(SettingsError, match="one payload codec"):
        sealing.install(codec())
