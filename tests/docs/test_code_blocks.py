"""Do the README and the docs tell the truth? Their code is compiled, and the main part run."""

import ast
import asyncio
import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventsaga import Orchestrator, Settings, SettingsError
from eventsaga.store.postgres.connect import sqlalchemy_url

_ROOT = Path(__file__).resolve().parents[2]
_PAGES = sorted([_ROOT / "README.md", _ROOT / "CONTRIBUTING.md", *(_ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def _blocks(page: Path) -> list[str]:
    return _BLOCK.findall(page.read_text())


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_python_block_compiles(page: Path) -> None:
    for block in _blocks(page):
        compile(block, page.name, "exec", flags=_FLAGS)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())

    missing = [target for target in targets if not (page.parent / target).exists()]

    assert not missing


def test_the_settings_page_lists_every_setting_with_its_default() -> None:
    page = (_ROOT / "docs" / "operating.md").read_text()
    listed = dict(re.findall(r"^\| `EVENTSAGA_(\w+)` \| (\S*) ?\|", page, re.MULTILINE))

    from_docs = Settings.from_environment(
        {f"EVENTSAGA_{name}": value.strip("`") for name, value in listed.items()}
    )

    assert {name.lower() for name in listed} == set(Settings.__slots__)
    assert from_docs == Settings()


def test_a_setting_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="EVENTSAGA_LEASE='soon' is not seconds"):
        Settings.from_environment({"EVENTSAGA_LEASE": "soon"})


@pytest.fixture
async def inventory() -> AsyncIterator[str]:
    """A service that reserves whatever it is asked to."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        await reader.readexactly(int(length.group(1)) if length else 0)
        body = b'{"reservation_id": "r-1"}'
        writer.write(b"HTTP/1.1 201 Created\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


async def test_the_saga_of_the_readme_runs_as_it_is_written(database: str, inventory: str) -> None:
    first, second = _blocks(_ROOT / "README.md")[:2]

    async def nothing(_order: Any) -> None:
        return None

    names: dict[str, Any] = dict.fromkeys(
        ["release", "charge", "refund", "ship", "unship", "confirm"], nothing
    )
    names["INVENTORY"] = inventory
    await _run(first.replace("postgresql://localhost/shop", database), names)

    assert names["state"].status == "COMPLETED"
    assert names["state"].context.reservation_id == "r-1"
    await _run_with_session(second, names, database)


class _Base(DeclarativeBase):
    pass


class _OrderRow(_Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)


async def _run_with_session(block: str, names: dict[str, Any], database: str) -> None:
    """Run the block about the caller's own transaction."""
    engine = create_async_engine(sqlalchemy_url(database))
    async with engine.begin() as connection:
        await connection.run_sync(_Base.metadata.create_all)
    async with Orchestrator(database, sagas=[names["order_saga"]], worker=False) as orchestrator:
        names |= {
            "AsyncSession": AsyncSession,
            "engine": engine,
            "orchestrator": orchestrator,
            "order_row": _OrderRow(id="row-1"),
            "order": names["Order"](order_id="own-transaction", total=1),
        }
        await _run(block, names)
        started = await orchestrator.list(name="order")
    async with engine.connect() as connection:
        rows = (await connection.execute(select(_OrderRow.id))).scalars().all()
    await engine.dispose()

    assert rows == ["row-1"]
    assert started[0].context["order_id"] == "own-transaction"


async def _run(block: str, names: dict[str, Any]) -> None:
    result = eval(compile(block, "block", "exec", flags=_FLAGS), names)  # noqa: S307 - our docs
    if inspect.isawaitable(result):
        await result
