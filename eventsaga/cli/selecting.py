"""Which sagas are meant? One by its id, or all that pass what is asked for, looked at first."""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from eventsaga.cli import target
from eventsaga.cli.fail import NO, OK, CommandError, complain
from eventsaga.cli.output import clean, note, say, say_json
from eventsaga.cli.progress import progress

if TYPE_CHECKING:
    from eventsaga.client import Orchestrator
    from eventsaga.core.state import Status
    from eventsaga.store.ports import SagaFilter, SagaRow

_AGE: Final = re.compile(r"(\d{1,6})(s|m|min|h|d|w)")
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGES: Final = "an age such as 90s, 15m, 2h or 30d, or an instant such as 2026-11-22T14:03 (UTC)"

# A bulk verb looks at no more than this; whoever has more narrows what is asked for.
_MOST: Final = 10_000
_SHOWN: Final = 10
_AT_ONCE: Final = 20

StatusOption = Annotated[
    list[str] | None,
    typer.Option("--status", "-s", metavar="STATUS", help="Only this status; may be repeated."),
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", "--saga", "-n", metavar="NAME", help="Only sagas of this name."),
]
StepOption = Annotated[
    str | None,
    typer.Option("--at", metavar="STEP", help="Only those that stand, or failed, at this step."),
]
CorrelationOption = Annotated[
    str | None,
    typer.Option("--correlation-id", metavar="ID", help="Only sagas started with it."),
]
TenantOption = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", help="Only sagas of this tenant.")
]
OlderOption = Annotated[
    str | None,
    typer.Option("--older-than", metavar="AGE", help=f"Only those started before: {_AGES}."),
]
NewerOption = Annotated[
    str | None, typer.Option("--newer-than", metavar="AGE", help="Only those started since.")
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="PATH=VALUE",
        help="Only with this in the context, such as customer.id=7; may be repeated.",
    ),
]
TextOption = Annotated[
    str | None,
    typer.Option("--text", metavar="TEXT", help="Only with this in id, name, error or context."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options by which sagas are chosen, as they were typed."""

    status: StatusOption = None
    name: NameOption = None
    at: StepOption = None
    correlation_id: CorrelationOption = None
    tenant: TenantOption = None
    older_than: OlderOption = None
    newer_than: NewerOption = None
    where: WhereOption = None
    text: TextOption = None

    @property
    def is_anything(self) -> bool:
        """Whether any of them was given."""
        return any(getattr(self, field.name) for field in fields(self))

    def wanted(self) -> "SagaFilter":
        """Return what they mean.

        Raises:
            CommandError: If one of them means nothing.
        """
        from eventsaga.store.ports import SagaFilter

        return SagaFilter(
            statuses=[_status(text) for text in self.status] if self.status else None,
            name=self.name,
            step=self.at,
            correlation_id=self.correlation_id,
            tenant=self.tenant,
            created_before=_since(self.older_than),
            created_after=_since(self.newer_than),
            where=_pairs(self.where or []),
            text=self.text,
        )


def filtering(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give *command* the options of `Asked`; it takes them as ``asked``."""
    given = inspect.signature(command)
    own = [parameter for parameter in given.parameters.values() if parameter.name != "asked"]
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=field.type
        )
        for field in fields(Asked)
    ]

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        asked = Asked(**{option.name: kwargs.pop(option.name) for option in options})
        return command(*args, asked=asked, **kwargs)

    # What is chosen by comes first.
    parameters = sorted([*options, *own], key=lambda parameter: parameter.kind)
    run.__signature__ = given.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _status(text: str) -> "Status":
    from eventsaga.core.state import Status

    try:
        return Status(text.upper())
    except ValueError:
        known = ", ".join(Status)
        raise CommandError(f"there is no status {text[:40]!r}; the statuses are {known}") from None


def _since(text: str | None) -> datetime | None:
    if text is None:
        return None
    age = _AGE.fullmatch(text.strip())
    if age is not None:
        try:
            return datetime.now(UTC) - timedelta(seconds=int(age[1]) * _SECONDS[age[2]])
        except OverflowError:
            raise CommandError(f"{text!r} is longer than there is time") from None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text[:40]!r} is no age: give {_AGES}") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


def _pairs(texts: list[str]) -> Mapping[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise CommandError(f"--where {text!r}: give PATH=VALUE, such as customer.id=7")
        pairs[path.strip()] = value
    return pairs


# -- many at once -----------------------------------------------------------------------------

CountOption = Annotated[
    int | None,
    typer.Option(
        "--count",
        metavar="N",
        help="For many sagas: how many there are; asked for if it is not given.",
        show_default=False,
    ),
]

Question = Callable[["Orchestrator", UUID, str], Awaitable[bool]]


async def ask_all(
    verb: str,
    asked: Asked,
    question: Question,
    *,
    who: str,
    count: int | None,
    as_json: bool,
) -> int:
    """Put *question* to all sagas that are asked for, once somebody has said how many."""
    async with target.opened() as orchestrator:
        rows = await orchestrator.store.list_sagas(asked.wanted(), limit=_MOST + 1)
        if not rows:
            if as_json:
                say_json({"requested": verb, "taken": [], "left": [], "refused": []})
            else:
                say("no saga fits; nothing was asked")
            return OK
        if len(rows) > _MOST:
            raise CommandError(f"more than {_MOST:,} sagas fit: ask for less at a time")
        _confirm(verb, rows, count)
        answers = await _answers(orchestrator, rows, question, verb, who)
    return _tell(verb, answers, as_json=as_json)


def _confirm(verb: str, rows: "list[SagaRow]", count: int | None) -> None:
    for row in rows[:_SHOWN]:
        error = "" if row.error is None else str(row.error.get("message", ""))
        note(clean(f"  {row.saga_id}  {row.status}  {row.name}  {error}"[:200]))
    if len(rows) > _SHOWN:
        note(f"  … and {len(rows) - _SHOWN:,} more")
    if count is None:
        note(f"To {verb} all {len(rows):,} of them, type how many there are:")
        try:
            count = int(input())
        except (ValueError, EOFError):
            raise CommandError("nothing was asked: --count says it without a question") from None
    if count != len(rows):
        raise CommandError(f"nothing was asked: there are {len(rows):,} sagas, not {count:,}")


Answer = tuple[UUID, str, str]
"""A saga, ``taken``, ``left`` or ``refused``, and why."""


async def _answers(
    orchestrator: "Orchestrator",
    rows: "list[SagaRow]",
    question: Question,
    verb: str,
    who: str,
) -> list[Answer]:
    from eventsaga.errors import EventSagaError, IllegalCommandError, SagaNotFoundError

    room, answers = asyncio.Semaphore(_AT_ONCE), list[Answer]()

    async def one(saga_id: UUID) -> None:
        async with room:
            try:
                taken = await question(orchestrator, saga_id, who)
                answers.append((saga_id, "taken" if taken else "left", ""))
            except (IllegalCommandError, SagaNotFoundError) as error:
                reason = error.reason if isinstance(error, IllegalCommandError) else str(error)
                answers.append((saga_id, "refused", reason))
            watched.report(len(answers), len(rows))

    with progress(verb) as watched:
        try:
            async with asyncio.TaskGroup() as group:
                for row in rows:
                    group.create_task(one(row.saga_id))
        except* EventSagaError as errors:
            complain(f"{len(answers):,} of {len(rows):,} had answered")
            raise errors.exceptions[0] from errors
    return answers


def _tell(verb: str, answers: list[Answer], *, as_json: bool) -> int:
    by_kind: dict[str, list[Answer]] = {"taken": [], "left": [], "refused": []}
    for answer in answers:
        by_kind[answer[1]].append(answer)
    if as_json:
        refused = [{"saga_id": saga_id, "reason": why} for saga_id, _, why in by_kind["refused"]]
        ids = {kind: [answer[0] for answer in by_kind[kind]] for kind in ("taken", "left")}
        say_json({"requested": verb, **ids, "refused": refused})
    else:
        for saga_id, _, why in by_kind["refused"]:
            complain(clean(f"{saga_id} refused: {why}"))
        say(
            f"{verb}: {len(by_kind['taken']):,} sagas have taken it, {len(by_kind['left']):,} are"
            f" left for a worker, {len(by_kind['refused']):,} have refused"
        )
    return NO if by_kind["refused"] else OK
