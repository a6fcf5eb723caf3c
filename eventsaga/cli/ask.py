"""How is something asked of a saga? The same for every verb: who, why, and what it answers.

A request is durable before anybody answers it. The answer is awaited for a while: taken, or
refused with what would be legal. If no worker has time, it is left for the next one.
"""

import getpass
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from eventsaga.cli import ids, target
from eventsaga.cli.fail import NO, OK, CommandError, complain
from eventsaga.cli.output import clean, say, say_json

if TYPE_CHECKING:
    from eventsaga.client import Orchestrator
    from eventsaga.errors import IllegalCommandError

ANSWER_SECONDS: Final = 5.0

StepArgument = Annotated[
    str, typer.Argument(metavar="STEP", help="Name of the step; of an item, such as pay[3].")
]
Reason = Annotated[
    str,
    typer.Option(
        "--reason", "-r", metavar="TEXT", help="Why; recorded in the history.", show_default=False
    ),
]
Actor = Annotated[
    str | None,
    typer.Option(
        "--actor",
        metavar="NAME",
        help="Who asks; otherwise your user name. Recorded in the history.",
        show_default=False,
    ),
]
Patience = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0,
        help="Wait so long for the answer; 0 for not at all.",
    ),
]

Question = Callable[["Orchestrator", UUID, str], Awaitable[bool]]
"""Takes an open orchestrator, the saga and who asks, and returns whether it was taken."""


async def ask(
    verb: str,
    saga_id: str,
    question: Question,
    *,
    reason: str,
    actor: str | None,
    as_json: bool,
) -> int:
    """Put *question* to a saga, say what it answered, and return the exit code."""
    from eventsaga.errors import IllegalCommandError

    if not reason.strip():
        raise CommandError("--reason must say why; it is recorded in the history")
    who = actor or user()
    async with target.opened() as orchestrator:
        found = await ids.find(orchestrator.store, saga_id)
        told = {"saga_id": found, "requested": verb, "reason": reason, "actor": who}
        try:
            is_taken = await question(orchestrator, found, who)
        except IllegalCommandError as error:
            legal = error.legal or (await orchestrator.explain(found)).legal
            return refused(found, error, legal, told, as_json=as_json)
    if as_json:
        say_json({**told, "taken": is_taken})
    elif is_taken:
        say(f"{found} has taken it ({verb}); watch it with `eventsaga show {found}`")
    else:
        say(
            f"{verb} is left for a worker: none has answered yet, and it is taken, or refused, "
            f"when one comes to {found}"
        )
    return OK


def refused(
    saga_id: UUID,
    error: "IllegalCommandError",
    legal: Sequence[str],
    told: dict[str, Any],
    *,
    as_json: bool,
) -> int:
    """Say that a saga has refused, and what it would take instead."""
    if as_json:
        say_json({**told, "taken": False, "refused": error.reason, "legal": legal})
    complain(
        "\n".join([clean(f"cannot {error.command}: {error.reason}"), *choices(saga_id, legal)])
    )
    return NO


def choices(saga_id: UUID, legal: Sequence[str]) -> list[str]:
    """Return what a saga would take, as commands to be copied."""
    if not legal:
        return ["Nothing can be asked of it now."]
    return ["It would take:", *(f"  {_command(saga_id, choice)}" for choice in legal)]


def _command(saga_id: UUID, choice: str) -> str:
    verb, *rest = choice.split()
    words = ["--step", *rest] if verb == "retry" and rest else rest
    return clean(" ".join(["eventsaga", verb, str(saga_id), *words, "--reason '…'"]))


def user() -> str:
    """Return who sits at the keyboard."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "somebody"  # a container may run as a number that has no name
