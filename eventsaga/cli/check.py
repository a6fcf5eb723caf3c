"""Is what is stored still true, and how is it put right? `verify` asks, `rebuild` repairs."""

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from eventsaga.cli import ids, target
from eventsaga.cli.anchor import require_cryptography
from eventsaga.cli.fail import NO, OK, CommandError
from eventsaga.cli.output import AsJson, clean, note, say, say_json
from eventsaga.cli.progress import progress
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.store.examine import Violation
    from eventsaga.store.postgres.rebuild import Repair
    from eventsaga.store.postgres.store import PostgresStore

# If everything is broken, the first thousand say as much as all.
_MOST_SHOWN: Final = 1000

SagaIds = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID",
        help="Only these sagas; the beginning of an id is enough.",
        show_default=False,
    ),
]


async def verify(
    saga_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID|FILE",
            help="Only these sagas, the beginning of an id is enough; or an archive.",
            show_default=False,
        ),
    ] = None,
    *,
    anchor: Annotated[
        str | None,
        typer.Option(
            "--anchor",
            metavar="FILE|URL",
            help="Also compare with what `eventsaga anchor` wrote.",
            show_default=False,
        ),
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key",
            metavar="FILE",
            help="Who must have signed the anchor; otherwise its own word is taken.",
            show_default=False,
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Check that no history was changed and no row is wrong.

    Workers may go on meanwhile. Of every saga: its events have no gaps, can follow each other
    and are linked by their hashes; its row is what they say, byte for byte; its steps were
    begun and undone once, in order, by one worker at a time; its start key stands for it; and
    if it has not ended, somebody will go on with it. Exit 1 if not, with the invariant that is
    broken (docs/reference/invariants.md) and the ids of the sagas concerned.

    A FILE is one that `eventsaga archive` wrote: the chain of every saga in it, and that none
    was taken out. No database is needed for that.

    Example:
      eventsaga verify
      eventsaga verify --json | jq -r '.broken[]'
      eventsaga verify --anchor anchors/2026-11-23.gz --public-key audit.key.pub
      eventsaga verify sagas-2026.jsonl.gz
    """
    from eventsaga.client.verify import verify as violations_of

    if saga_ids and any(_is_file(text) for text in saga_ids):
        return _verify_file(saga_ids, as_json=as_json)
    target.aim(database_url, schema)
    if saga_ids and anchor is not None:
        raise CommandError("an anchor holds all sagas: compare it without ids")
    shown: list[dict[str, Any]] = []
    broken: dict[UUID, None] = {}
    count = 0
    async with target.opened() as orchestrator:
        chosen = await _found(orchestrator.store, saga_ids)
        with progress("verifying") as watched:
            async for violation in _all_of(
                violations_of(orchestrator.store, chosen, progress=watched.report),
                *_anchored(orchestrator.store, anchor, public_key),
            ):
                count += 1
                broken[violation.saga_id] = None
                if count <= _MOST_SHOWN:
                    shown.append(asdict(violation))
    if as_json:
        say_json(
            {
                "ok": not broken,
                "sagas": watched.done,
                "violations": count,
                "broken": list(broken),
                "details": shown,
            }
        )
    else:
        _tell_violations(shown, count, broken, watched.done)
    return NO if broken else OK


async def _all_of(*found: AsyncIterator["Violation"]) -> AsyncIterator["Violation"]:
    for violations in found:
        async for violation in violations:
            yield violation


def _anchored(
    store: "PostgresStore", anchor: str | None, public_key: Path | None
) -> "Iterator[AsyncIterator[Violation]]":
    """Yield what compares with *anchor*, if there is one."""
    if anchor is None:
        return
    require_cryptography()
    from eventsaga.client import anchor as anchors

    key = None if public_key is None else anchors.load_public_key(public_key)
    yield anchors.check(store, anchor, key)


def _is_file(text: str) -> bool:
    # No id, and no beginning of one, has a dot or a slash.
    return "." in text or "/" in text


def _verify_file(names: list[str], *, as_json: bool) -> int:
    from eventsaga.store.archive.check import Flaw, check

    if len(names) > 1:
        raise CommandError("verify one FILE at a time")
    flaws, sagas = list[Flaw](), 0
    for found in check(Path(names[0])):
        if isinstance(found, Flaw):
            flaws.append(found)
        else:
            sagas += 1
    if as_json:
        shown = [asdict(flaw) for flaw in flaws[:_MOST_SHOWN]]
        say_json({"ok": not flaws, "sagas": sagas, "flaws": len(flaws), "details": shown})
        return NO if flaws else OK
    for flaw in flaws[:_MOST_SHOWN]:
        say(clean(str(flaw)))
    if len(flaws) > _MOST_SHOWN:
        say(f"… and {len(flaws) - _MOST_SHOWN:,} more")
    if not flaws:
        say(f"{_sagas(sagas)} verified: all is as it was written")
    return NO if flaws else OK


def _tell_violations(
    shown: Iterable[dict[str, Any]], count: int, broken: Iterable[UUID], done: int
) -> None:
    from eventsaga.store.invariants import INVARIANTS

    if not count:
        say(f"{_sagas(done)} verified: all is as it was written")
        return
    for violation in shown:
        seq = "" if violation["seq"] is None else f", event {violation['seq']}"
        message, number = clean(violation["message"]), violation["invariant"]
        name = INVARIANTS[number].name
        say(f"{violation['saga_id']}{seq}: {message} (invariant {number}, {name})")
    if count > _MOST_SHOWN:
        say(f"… and {count - _MOST_SHOWN:,} more")
    note("\n".join([f"eventsaga: of {_sagas(done)}, these are broken:", *map(str, broken)]))


async def rebuild(
    saga_ids: SagaIds = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; exit 1 if something is wrong.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also believe histories that are broken or may have lost their end."
        ),
    ] = False,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Write rows of sagas that are wrong anew from the events.

    Workers may go on meanwhile. A saga whose history is broken is left alone, because its
    row may be the last witness: exit 1, with the reason.

    Example:
      eventsaga rebuild --dry-run
      eventsaga rebuild 01a205d7
    """
    from eventsaga.store.postgres.rebuild import rebuild as repairs_of

    target.aim(database_url, schema)
    async with target.opened() as orchestrator:
        chosen = await _found(orchestrator.store, saga_ids)
        with progress("rebuilding") as watched:
            found = repairs_of(
                orchestrator.store,
                chosen,
                dry_run=dry_run,
                force=force,
                progress=watched.report,
            )
            repairs = [repair async for repair in found]
    if as_json:
        say_json({"sagas": watched.done, "dry_run": dry_run, **_as_json(repairs)})
    else:
        _tell_repairs(repairs, watched.done, dry_run=dry_run)
    refused = any(repair.refused is not None for repair in repairs)
    return NO if refused or (dry_run and repairs) else OK


def _as_json(repairs: "Iterable[Repair]") -> dict[str, Any]:
    return {
        "repaired": [
            {"saga_id": repair.saga_id, "columns": repair.columns}
            for repair in repairs
            if repair.refused is None
        ],
        "refused": [
            {"saga_id": repair.saga_id, "columns": repair.columns, "reason": repair.refused}
            for repair in repairs
            if repair.refused is not None
        ],
    }


def _tell_repairs(repairs: "Iterable[Repair]", done: int, *, dry_run: bool) -> None:
    written = 0
    for repair in repairs:
        if repair.refused is not None:
            note(f"eventsaga: {repair.saga_id} is left alone: {clean(repair.refused)}")
            continue
        written += 1
        verb = "would be written" if dry_run else "written"
        say(f"{repair.saga_id}: {verb}: {', '.join(repair.columns)}")
    verb = "would be" if dry_run else "were"
    say(f"{_sagas(done)} looked at, {written:,} {verb} repaired")


def _sagas(count: int) -> str:
    return "1 saga" if count == 1 else f"{count:,} sagas"


async def _found(store: "PostgresStore", texts: list[str] | None) -> list[UUID] | None:
    return [await ids.find(store, text) for text in texts] if texts else None
