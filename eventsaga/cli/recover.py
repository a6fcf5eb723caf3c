"""Has the database lost commits, and who says that sagas may go on all the same?"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventsaga.cli import target
from eventsaga.cli.ask import Actor, user
from eventsaga.cli.fail import NO, OK, CommandError
from eventsaga.cli.output import AsJson, clean, instant, say, say_json
from eventsaga.cli.target import DatabaseUrl, Schema

if TYPE_CHECKING:
    from eventsaga.store.ports import Incarnation


async def recover(
    *,
    accept: Annotated[
        bool,
        typer.Option("--accept-incarnation", help="Let go on what is held. Needs --reason."),
    ] = False,
    reason: Annotated[
        str | None,
        typer.Option("--reason", "-r", metavar="TEXT", help="Why; recorded.", show_default=False),
    ] = None,
    actor: Actor = None,
    renumber: Annotated[
        bool,
        typer.Option(
            "--renumber",
            help="After a restore into another system: put the events in order for feeds.",
        ),
    ] = False,
    database_url: DatabaseUrl = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> int:
    """Show whether the database may have lost commits.

    After an asynchronous failover, or when a backup was restored, steps may have taken effect
    that the tables know nothing of. The database has another system identifier or timeline
    then. Sagas that were going forward are held: they would send requests again that the
    participants may have forgotten. Sagas that go back, and new ones, are not.

    Compare with the participants first; then accept, and all go on. Exit 1 while any is held.

    Feeds (`eventsaga feed`) refuse to read events that were restored into another system, whose
    transaction ids begin anew, until --renumber has put them in order. Appends wait meanwhile.

    Example:
      eventsaga recover
      eventsaga recover --accept-incarnation --reason 'failover; payments compared, none lost'
    """
    if accept != bool(reason and reason.strip()):
        raise CommandError("--accept-incarnation and --reason belong together")
    from eventsaga.store.postgres import feed as feeding

    target.aim(database_url, schema)
    async with target.opened() as orchestrator:
        store = orchestrator.store
        let_go = await store.accept_incarnation(actor or user(), reason) if accept and reason else 0
        renumbered = await feeding.renumber(store) if renumber else 0
        ordered = await feeding.is_numbered(store)
        found = await store.incarnation()
    if as_json:
        more = {"let_go": let_go, "is_numbered": ordered, "renumbered": renumbered}
        say_json({**found._asdict(), **more})
    else:
        _say(found)
        if let_go:
            say(f"{let_go:,} sagas go on, as soon as a worker comes to them.")
        if renumber:
            say(f"The events are in order for feeds: {renumbered:,} were numbered anew.")
        elif not ordered:
            say("Feeds wait: the events come from another system. eventsaga recover --renumber")
    return NO if found.held else OK


def _say(found: "Incarnation") -> None:
    said: dict[str, Any] = {
        "system": found.system_identifier,
        "timeline": found.timeline,
        "first met": "not yet" if found.seen_at is None else instant(found.seen_at),
    }
    say(", ".join(f"{name} {value}" for name, value in said.items()))
    if found.accepted_at is not None:
        why = f": {found.reason}" if found.reason else ""
        say(clean(f"accepted {instant(found.accepted_at)} by {found.accepted_by}{why}"))
        return
    say(f"not accepted: the database may have lost commits. {found.held:,} sagas are held.")
    say("Let them go on: eventsaga recover --accept-incarnation --reason '…'")
