"""How is something asked of a saga? The same for every verb: who, why, and what it answers.

A request is durable before anybody answers it. The answer is awaited for a while: taken, or
refused with what would be legal. If no worker has time, it is left for the next one.
"""

import getpass
import shlex
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from eventsaga.cli import ids, target
from eventsaga.cli.fail import NO, OK, CommandError, complain
from eventsaga.cli.output import clean, say, say_json
from eventsaga.cli.selecting import Asked, Question, ask_all

if TYPE_CHECKING:
    from eventsaga.client import Explanation
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


async def ask(
    verb: str,
    saga_id: str | None,
    question: Question,
    *,
    asked: Asked,
    count: int | None,
    reason: str,
    actor: str | None,
    as_json: bool,
) -> int:
    """Put *question* to a saga, or to all that are asked for, and return the exit code."""
    from eventsaga.errors import IllegalCommandError

    if not reason.strip():
        raise CommandError("--reason must say why; it is recorded in the history")
    if (saga_id is None) != asked.is_anything:
        raise CommandError("give the ID of a saga, or say which ones: --status, --name, --where …")
    who = actor or user()
    if saga_id is None:
        return await ask_all(verb, asked, question, who=who, count=count, as_json=as_json)
    async with target.opened() as orchestrator:
        found = await ids.find(orchestrator.store, saga_id)
        told = {"saga_id": found, "requested": verb, "reason": reason, "actor": who}
        try:
            is_taken = await question(orchestrator, found, who)
        except IllegalCommandError as error:
            explanation = await orchestrator.explain(found)
            return refused(error, explanation, told, as_json=as_json)
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
    error: "IllegalCommandError",
    explanation: "Explanation",
    told: dict[str, Any],
    *,
    as_json: bool,
) -> int:
    """Say that a saga has refused, and what it would take instead."""
    if as_json:
        instead = {"legal": explanation.legal, "signals": explanation.signals}
        say_json({**told, "taken": False, "refused": error.reason, **instead})
    complain("\n".join([clean(f"cannot {error.command}: {error.reason}"), *choices(explanation)]))
    return NO


def choices(explanation: "Explanation") -> list[str]:
    """Return what a saga would take, as commands to be copied."""
    commands = [
        *(["signal", shlex.quote(name), "'{…}'"] for name in explanation.signals),
        *(_words(choice) for choice in explanation.legal),
    ]
    if not commands:
        return ["Nothing can be asked of it now."]
    saga_id = str(explanation.saga_id)
    lines = (["eventsaga", verb, saga_id, *rest] for verb, *rest in commands)
    return ["It would take:", *(f"  {clean(' '.join(words))}" for words in lines)]


def _words(choice: str) -> list[str]:
    verb, *rest = choice.split()
    option = ["--step"] if verb == "retry" and rest else []
    return [verb, *option, *rest, "--reason '…'"]


def user() -> str:
    """Return who sits at the keyboard."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "somebody"  # a container may run as a number that has no name
