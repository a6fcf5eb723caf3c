"""What do simulated steps reach? A participant far away, whose ledger is the truth."""

import random
from collections import defaultdict
from typing import Any, Final

import asyncpg
from pydantic import BaseModel

from eventsaga import (
    ChildSaga,
    ForEach,
    InDoubtError,
    Parallel,
    PermanentError,
    Retry,
    Saga,
    Sleep,
    Step,
    StepContext,
    WaitForSignal,
)
from eventsaga.saga import SagaNode
from tests.simulation.server import Weather, travel

_TRIES: Final = Retry(max_attempts=4, delay=0.2, max_delay=2.0)
_PATIENT: Final = Retry(max_attempts=30, delay=0.2, max_delay=5.0)


class Work(BaseModel):
    """A context."""

    number: int = 0
    results: dict[str, str] = {}
    go: str | None = None


class Participant:
    """Honours idempotency keys, and refuses what it has been told to undo.

    Args:
        lots: Draws what it answers.
        weather: The way there.
        refusals: Share of forward requests that are refused for good.
        overload: Share of requests that are refused for now.
    """

    def __init__(
        self, lots: random.Random, weather: Weather, *, refusals: float, overload: float
    ) -> None:
        self._lots = lots
        self._weather = weather
        self._refusals = refusals
        self._overload = overload
        self.applied: defaultdict[str, int] = defaultdict(int)
        self.requests: list[str] = []
        self._refused: set[str] = set()

    async def do(self, key: str) -> None:
        """Do, or undo, what *key* stands for.

        Raises:
            InDoubtError: If no answer came.
            PermanentError: If it was refused for good.
            RuntimeError: If it was refused for now.
        """
        try:
            answer = await travel(self._weather, lambda: self._apply(key))
        except (ConnectionError, TimeoutError, asyncpg.PostgresError) as error:
            raise InDoubtError("no answer") from error
        if answer == "refused":
            raise PermanentError("refused")
        if answer == "overloaded":
            raise RuntimeError("overloaded")

    async def ask(self, key: str) -> bool | None:
        """Return whether what *key* stands for was done; None if no answer came."""
        try:
            return await travel(self._weather, lambda: self.applied[key] > 0)
        except (ConnectionError, TimeoutError, asyncpg.PostgresError):
            return None

    def _apply(self, key: str) -> str:
        self.requests.append(key)
        if self.applied[key]:
            return "done"
        if key in self._refused or self.applied.get(f"{key}/compensate"):
            return "refused"
        if self._lots.random() < self._overload:
            return "overloaded"
        if not key.endswith("/compensate") and self._lots.random() < self._refusals:
            self._refused.add(key)
            return "refused"
        self.applied[key] += 1
        return "done"


async def writes(_work: Work, step: StepContext) -> None:
    """Write a row of the user's in the step's transaction."""
    step.session.append(step.idempotency_key)  # type: ignore[attr-defined]


class Shapes:
    """Sagas of every kind; each is built once, whoever they reach.

    Attributes:
        names: Those that are started.
        participant: What their steps reach now.
    """

    names: Final = ("line", "doubts", "pivot", "waits", "branches", "items", "parent", "rows")
    participant: Participant

    def __init__(self) -> None:
        self.kid = Saga("kid", context=Work, steps=[self._step("pack"), self._step("post")])
        self._built: dict[str, Saga[Work]] = {}

    def saga(self, name: str) -> Saga[Work]:
        """Return the saga of *name*, which has hooks."""
        if name not in self._built:
            nodes: list[SagaNode] = getattr(self, f"_{name}")()
            self._built[name] = Saga(
                name,
                context=Work,
                steps=nodes,
                on_completed=self._does,
                on_compensated=self._does,
            )
        return self._built[name]

    async def _does(self, _work: Work, step: StepContext) -> None:
        await self.participant.do(step.idempotency_key)

    async def _asks(self, _work: Work, step: StepContext) -> bool | None:
        return await self.participant.ask(step.idempotency_key)

    def _step(self, name: str, **options: Any) -> Step:
        usual: dict[str, Any] = {
            "compensate": self._does,
            "retry": _TRIES,
            "compensate_retry": _PATIENT,
            "timeout": 20,
        }
        return Step(name, self._does, **(usual | options))

    def _line(self) -> list[SagaNode]:
        return [self._step(name) for name in ("reserve", "charge", "ship", "confirm")]

    def _doubts(self) -> list[SagaNode]:
        return [
            self._step("ask", on_doubt="verify", verify=self._asks),
            self._step("back", on_doubt="compensate"),
            self._step("again", on_doubt="retry"),
        ]

    def _pivot(self) -> list[SagaNode]:
        return [
            self._step("reserve"),
            self._step("pay", pivot=True, compensate=None),
            self._step("ship", retry=_PATIENT, compensate=None),
        ]

    def _waits(self) -> list[SagaNode]:
        wait = WaitForSignal("go", timeout=15, on_timeout="compensate")
        return [self._step("ask"), Sleep("pause", 7), wait, self._step("act")]

    def _branches(self) -> list[SagaNode]:
        left = [self._step("left"), self._step("more")]
        both = Parallel("both", [left, self._step("right")], max_concurrency=2)
        return [both, self._step("last")]

    def _items(self) -> list[SagaNode]:
        each = ForEach("each", lambda _: [1, 2, 3], self._step("item"), max_concurrency=2)
        return [each, self._step("last")]

    def _parent(self) -> list[SagaNode]:
        child = ChildSaga("child", self.kid, context=lambda work: work)
        return [self._step("ask"), child, self._step("last")]

    def _rows(self) -> list[SagaNode]:
        return [Step("write", writes, transactional=True, retry=_PATIENT), self._step("tell")]


SHAPES: Final = Shapes()
