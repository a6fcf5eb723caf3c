"""What is drilled? A saga, its input, and what must hold when it has ended."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import UUID, uuid4

from eventsaga.client import SagaState
from eventsaga.drill.errors import DrillError
from eventsaga.drill.load import environment, sagas_of
from eventsaga.drill.recorder import Sent
from eventsaga.drill.scratch import Setup
from eventsaga.saga import Saga
from eventsaga.store.ports import StoredEvent

RUN: Final = "{run}"
"""In any text of the context this stands for something that no other run has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A saga that has ended, as a check sees it.

    Attributes:
        saga_id: The saga.
        state: Where it stands; ``state.context`` is its context model.
        history: All its events.
        requests: What its steps sent, in the order in which it reached the participants.
        database_url: The scratch database.
        fault: What happened to it, in words; None for a clean run.
    """

    saga_id: UUID
    state: SagaState[Any]
    history: Sequence[StoredEvent]
    requests: Sequence[Sent]
    database_url: str
    fault: str | None


Check = Callable[[Ended], Any]
"""What must hold: it returns nothing or True, or else what is wrong: a text, or several; or
False. What it raises is wrong too. It may be a coroutine function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is drilled.

    Attributes:
        module: Where the workers find the sagas, as ``module:name``.
        saga: The one that is started.
        family: All that the workers run.
        context: Its input; ``{run}`` in a text is replaced in each run.
        checks: What must hold at each end, beside our own invariants.
        signals: Sent to each saga right after its start, by name.
        setup: Makes what the saga needs in the scratch database.
    """

    module: str
    saga: Saga[Any]
    family: Sequence[Saga[Any]]
    context: Mapping[str, Any]
    checks: Sequence[Check] = ()
    signals: Mapping[str, Mapping[str, Any] | None] = field(
        default_factory=dict[str, Mapping[str, Any] | None]
    )
    setup: Setup | None = None

    def input(self) -> Any:
        """Return the context of one run."""
        return _filled(self.context, uuid4().hex[:12])


def find_saga(
    module: str, name: str | None, database_url: str
) -> tuple[Saga[Any], Sequence[Saga[Any]]]:
    """Return the saga to drill, and all that *module* holds.

    Args:
        module: As ``module:name``. It is imported with *database_url* in its environment.
        name: The saga; None if there is only one.
        database_url: A scratch database.

    Raises:
        DrillError: If the module cannot be loaded, or has no such saga.
    """
    with environment({"EVENTSAGA_DATABASE_URL": database_url}):
        family = sagas_of(module)
    names = sorted({saga.name for saga in family})
    if name is None and len(names) > 1:
        raise DrillError(f"{module} has several sagas: name one of {', '.join(names)}")
    chosen = [saga for saga in family if name in {None, saga.name}]
    if not chosen:
        raise DrillError(f"{module} has no saga {name!r}; it has {', '.join(names)}")
    return max(chosen, key=lambda saga: saga.definition.version), family


async def ask(check: Check, ended: Ended) -> list[str]:
    """Return what is wrong, according to *check*."""
    try:
        said = check(ended)
        if inspect.isawaitable(said):
            said = await _awaited(said)
    except Exception as error:  # noqa: BLE001 - whatever it raises is its answer
        return [f"{type(error).__name__}: {error}" if str(error) else type(error).__name__]
    if said is None or said is True:
        return []
    if said is False:
        return [f"{getattr(check, '__name__', 'the check')} does not hold"]
    if isinstance(said, str):
        return [said]
    if isinstance(said, Iterable):
        return [str(item) for item in cast("Iterable[object]", said)]
    return [repr(said)]


async def _awaited(said: Awaitable[Any]) -> Any:
    return await said


def _filled(value: Any, run: str) -> Any:
    match value:
        case str():
            return value.replace(RUN, run)
        case Mapping():
            members = cast("Mapping[str, Any]", value)
            return {key: _filled(item, run) for key, item in members.items()}
        case list():
            return [_filled(item, run) for item in cast("Iterable[Any]", value)]
        case _:
            return value
