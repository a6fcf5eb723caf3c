"""Which stories could there be? Random definitions and random fates, for hypothesis."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, count, repeat

from hypothesis import strategies as st

from eventsaga.core.commands import HandOver, Wake
from eventsaga.core.definition import (
    Node,
    ParallelDefinition,
    RetryPolicy,
    SagaDefinition,
    SequenceDefinition,
    StepDefinition,
)
from eventsaga.core.react import RunStep
from tests.core.histories import (
    SECOND,
    Story,
    cancel,
    doubt,
    fail,
    recover,
    saga,
    start,
    succeed,
)

MOVES = (
    *("ok", "ok", "ok", "patch", "clash"),
    *("fail", "permanent", "refused", "doubt", "crash", "handover"),
    *("hold", "hold-fail", "hold-doubt", "cancel", "again", "wait"),
)


@dataclass(frozen=True)
class Plot:
    """What is random about a story; what is not said goes well."""

    definition: SagaDefinition
    moves: tuple[str, ...]
    picks: tuple[int, ...]
    crashes: frozenset[int]


def _policies() -> st.SearchStrategy[RetryPolicy]:
    return st.builds(
        RetryPolicy,
        max_attempts=st.integers(1, 3),
        delay=st.sampled_from([timedelta(0), SECOND, 10 * SECOND]),
    )


@st.composite
def _nodes(draw: st.DrawFn, names: Iterator[str], depth: int) -> Node:
    kind = draw(st.sampled_from(["step", "step", "sequence", "parallel"] if depth else ["step"]))
    if kind == "step":
        return StepDefinition(
            name=next(names),
            compensable=draw(st.sampled_from([True, True, False])),
            retry=draw(_policies()),
            compensate_retry=draw(_policies()),
        )
    size = draw(st.integers(1, 3))
    children = tuple(draw(_nodes(names, depth - 1)) for _ in range(size))
    if kind == "sequence":
        return SequenceDefinition(children)
    return ParallelDefinition(next(names), children)


@st.composite
def definitions(draw: st.DrawFn) -> SagaDefinition:
    names = (f"n{number}" for number in count())
    nodes = [draw(_nodes(names, 2)) for _ in range(draw(st.integers(1, 3)))]
    return saga(*nodes, deadline=draw(st.sampled_from([None, None, 3 * SECOND, 60 * SECOND])))


@st.composite
def plots(draw: st.DrawFn) -> Plot:
    return Plot(
        definition=draw(definitions()),
        moves=tuple(draw(st.lists(st.sampled_from(MOVES), max_size=30))),
        picks=tuple(draw(st.lists(st.integers(0, 7), max_size=30))),
        crashes=draw(st.frozensets(st.integers(1, 40), max_size=6)),
    )


class Player:
    """Plays a plot to its end; chance decides which running attempt ends next, and how."""

    def __init__(self, plot: Plot) -> None:
        self.story = Story(plot.definition)
        self._moves = chain(plot.moves, repeat("ok"))
        self._picks = chain(plot.picks, repeat(0))
        self._crashes = plot.crashes

    def play(self) -> Iterator[Story]:
        """Yield the story after every decision, until it is settled."""
        story = self.story
        story.send(start())
        for decisions in count(1):
            yield story
            if story.state.status.is_settled:
                return
            if decisions in self._crashes:
                # The worker dies after this append; another one goes on.
                story.reload()
                story.send(recover(story.at))
            else:
                self._turn()

    def _turn(self) -> None:
        story = self.story
        running = story.due()
        if not running:
            wake_at = story.wake_at()
            assert wake_at is not None, f"nothing is due: {story.state}"
            story.at = max(story.at, wake_at)
            story.send(Wake(at=story.at))
            return
        self._end(running[next(self._picks) % len(running)], next(self._moves))

    def _end(self, effect: RunStep, move: str) -> None:  # noqa: C901 - a list of moves
        story = self.story
        name, attempt, operation, at = effect.step, effect.attempt, effect.operation, story.at
        match move:
            case "patch":
                story.finish(effect, {name: attempt})
            case "clash":
                story.finish(effect, {"shared": name})
            case "refused":
                story.send(
                    fail(name, attempt=attempt, operation=operation, at=at, effect_happened=True)
                )
            case "hold":
                story.send(succeed(name, attempt=attempt, operation=operation, at=at, hold=True))
            case "hold-fail":
                story.send(fail(name, attempt=attempt, operation=operation, at=at, hold=True))
            case "hold-doubt":
                story.send(
                    doubt(name, attempt=attempt, operation=operation, at=at, hold=True),
                    HandOver(at=at),
                )
            case "cancel":
                story.send(cancel(at))
            case "wait":
                story.at += SECOND
                story.send(Wake(at=story.at))
            case "again":
                story.finish(effect, "ok")
                assert story.send(succeed(name, attempt=attempt, operation=operation, at=at)) == ()
            case _:
                story.finish(effect, move)


def played(plot: Plot) -> Story:
    """Return the story at its end."""
    player = Player(plot)
    for _ in player.play():
        pass
    return player.story
