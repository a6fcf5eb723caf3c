"""Which stories could there be? Random definitions and random fates, for hypothesis."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, count, islice, repeat
from typing import Any, Final
from zlib import crc32

from hypothesis import strategies as st

from eventsaga.core.answers import AnswerError, ChildInput
from eventsaga.core.commands import Command, HandOver, Wake
from eventsaga.core.definition import (
    ChildDefinition,
    ForEachDefinition,
    Hook,
    Node,
    OnDoubt,
    OnTimeout,
    ParallelDefinition,
    RetryPolicy,
    SequenceDefinition,
    SignalDefinition,
    SleepDefinition,
    StepDefinition,
    StepName,
)
from eventsaga.core.events import JsonObject
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.react import RunStep
from eventsaga.core.state import Phase, State, Status
from eventsaga.core.verbs import Legal, Verb, legal_verbs
from tests.core.histories import (
    POISON,
    SECOND,
    Says,
    Story,
    abandon,
    cancel,
    child_ended,
    doubt,
    fail,
    pivot,
    recover,
    resolve,
    retry,
    saga,
    signal,
    skip,
    start,
    succeed,
    undo,
)

MOVES: Final = (
    *("ok", "ok", "ok", "patch", "clash"),
    *("fail", "permanent", "refused", "doubt", "crash", "handover"),
    *("hold", "hold-fail", "hold-doubt", "cancel", "again", "wait", "signal", "poison"),
)
_LEAVES: Final = ("step", "step", "step", "step", "sleep", "wait", "child", "for-each")
_MOST_TURNS: Final = 2000


@dataclass(frozen=True)
class Plot:
    """What is random about a story; what is not said goes well."""

    definition: SagaDefinition
    moves: tuple[str, ...]
    picks: tuple[int, ...]
    crashes: frozenset[int]
    verbs: tuple[int, ...] = ()
    fate: int | None = None


@dataclass(frozen=True)
class Site:
    """Where a node stands: after the pivot, or where nothing goes wrong by itself."""

    in_tail: bool = False
    calm: bool = False


class Fate(Says):
    """What the user's functions say, by chance, but always the same; all is well for None."""

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self._seed = seed

    def require_fit(self, state: State, patch: JsonObject, /) -> None:
        """Take anything."""

    def holds(self, _state: State, step: StepName) -> bool:
        """Refuse, deny or admit."""
        return self._number(step) % 3 != 1

    def items(self, _state: State, step: StepName) -> tuple[Any, ...]:
        """Return up to four items."""
        return tuple(range(self._number(step) % 5))

    def fire_at(self, _state: State, step: StepName, at: datetime) -> datetime:
        """Return an instant that is not far away."""
        return at + self._number(step) % 3 * SECOND

    def child(self, _state: State, step: StepName) -> ChildInput:
        """Return what a child is started with."""
        return ChildInput("delivery", 1, {"number": self._number(step)})

    def _number(self, step: StepName) -> int:
        if self._seed is None:
            return 2
        number = crc32(f"{self._seed}/{step}".encode())
        if number % 16 == 0:
            raise AnswerError("KeyError", step)
        return number


def _policies() -> st.SearchStrategy[RetryPolicy]:
    return st.builds(
        RetryPolicy,
        max_attempts=st.integers(1, 3),
        delay=st.sampled_from([timedelta(0), SECOND, 10 * SECOND]),
    )


def _rarely() -> st.SearchStrategy[bool]:
    return st.sampled_from([False, False, False, True])


def _fields(name: str, site: Site) -> st.SearchStrategy[str | None]:
    return st.sampled_from([None, name] if site.calm else [None, name, "shared"])


@st.composite
def _steps(draw: st.DrawFn, name: str, *, site: Site) -> StepDefinition:
    compensable = draw(st.sampled_from([True, True, False]))
    ways = [OnDoubt.RETRY, OnDoubt.RETRY, OnDoubt.VERIFY, OnDoubt.PARK]
    if compensable and not site.in_tail:
        ways.append(OnDoubt.COMPENSATE)
    return StepDefinition(
        name=name,
        compensable=compensable,
        retry=draw(_policies()),
        compensate_retry=draw(_policies()),
        conditional=draw(_rarely()),
        on_doubt=draw(st.sampled_from(ways)),
        key_ttl=draw(st.sampled_from([None, None, None, SECOND])),
        transactional=draw(_rarely()),
    )


@st.composite
def _waits(draw: st.DrawFn, name: str, *, site: Site) -> SignalDefinition:
    ways = [OnTimeout.CONTINUE, OnTimeout.PARK]
    return SignalDefinition(
        name=name,
        signal=draw(st.sampled_from(["yes", "no"])),
        timeout=None if site.calm else draw(st.sampled_from([None, SECOND, 9 * SECOND])),
        on_timeout=draw(st.sampled_from(ways if site.in_tail else [*ways, OnTimeout.COMPENSATE])),
        default=draw(st.sampled_from([None, {"shared": 0}])),
        into=draw(_fields(name, site)),
        fields=() if site.calm else ("shared",),
        conditional=draw(_rarely()),
    )


@st.composite
def _leaves(draw: st.DrawFn, name: str, *, site: Site) -> Node:
    conditional = draw(_rarely())
    match draw(st.sampled_from(_LEAVES)):
        case "sleep":
            duration = draw(st.sampled_from([None, timedelta(0), 5 * SECOND]))
            return SleepDefinition(name=name, duration=duration, conditional=conditional)
        case "wait":
            return draw(_waits(name, site=site))
        case "child":
            into = draw(_fields(name, site))
            return ChildDefinition(
                name=name,
                saga="delivery",
                into=into,
                conditional=conditional,
                undoable=not site.in_tail,
            )
        case "for-each":
            return ForEachDefinition(
                name=name,
                step=draw(_steps("item", site=site)),
                max_concurrency=draw(st.integers(1, 3)),
                into=draw(_fields(name, site)),
                conditional=conditional,
            )
        case _:
            return draw(_steps(name, site=site))


@st.composite
def _nodes(draw: st.DrawFn, names: Iterator[str], depth: int, *, site: Site) -> Node:
    kind = draw(st.sampled_from(["leaf", "leaf", "sequence", "parallel"] if depth else ["leaf"]))
    if kind == "leaf":
        return draw(_leaves(next(names), site=site))
    size = draw(st.integers(1, 3))
    children = tuple(draw(_nodes(names, depth - 1, site=site)) for _ in range(size))
    if kind == "sequence":
        return SequenceDefinition(children)
    return ParallelDefinition(next(names), children, draw(st.sampled_from([None, None, 1, 2])))


@st.composite
def definitions(draw: st.DrawFn, *, calm: bool) -> SagaDefinition:
    names = (f"n{number}" for number in count())
    nodes = [draw(_nodes(names, 2, site=Site(calm=calm))) for _ in range(draw(st.integers(1, 3)))]
    if draw(_rarely()):
        nodes.append(pivot(compensable=draw(st.booleans())))
        nodes += [
            draw(_nodes(names, 1, site=Site(in_tail=True, calm=calm)))
            for _ in range(draw(st.integers(0, 2)))
        ]
    deadline = None if calm else draw(st.sampled_from([None, None, 3 * SECOND, 60 * SECOND]))
    return saga(*nodes, deadline=deadline, hooks=draw(st.frozensets(st.sampled_from(Hook))))


@st.composite
def plots(draw: st.DrawFn, *, calm: bool = False) -> Plot:
    return Plot(
        definition=draw(definitions(calm=calm)),
        moves=tuple(draw(st.lists(st.sampled_from(MOVES), max_size=30))),
        picks=tuple(draw(st.lists(st.integers(0, 7), max_size=30))),
        crashes=draw(st.frozensets(st.integers(1, 40), max_size=6)),
        verbs=tuple(draw(st.lists(st.integers(0, 11), max_size=5))),
        fate=draw(st.sampled_from([None, 1, 2, 3, 4, 5, 6, 7])),
    )


def command_of(legal: Legal, at: datetime) -> Command:
    """Return the command that asks for what is *legal*."""
    match legal:
        case Legal(verb=Verb.CANCEL):
            return cancel(at)
        case Legal(verb=Verb.RETRY, step=step):
            return retry(step, at)
        case Legal(verb=Verb.SKIP, step=str(step)):
            return skip(step, at)
        case Legal(verb=Verb.RESOLVE, step=str(step), resolution=resolution) if resolution:
            return resolve(step, resolution, at=at)
        case Legal(verb=Verb.ABANDON):
            return abandon(at)
        case Legal(verb=Verb.UNDO):
            return undo(at)
        case _:
            raise AssertionError(f"nobody knows the verb {legal}")


class Player:
    """Plays a plot to its end; chance decides which running attempt ends next, and how."""

    def __init__(self, plot: Plot, *, in_place: bool = False) -> None:
        self.story = Story(plot.definition, Fate(plot.fate), in_place=in_place)
        self._moves = chain(plot.moves, repeat("ok"))
        self._picks = chain(plot.picks, repeat(0))
        self._verbs = iter(plot.verbs)
        self._crashes = plot.crashes
        self._signals = count(1)

    def play(self) -> Iterator[Story]:
        """Yield the story after every decision, until nothing happens any more."""
        story = self.story
        story.send(start())
        for decisions in islice(count(1), _MOST_TURNS):
            yield story
            if decisions in self._crashes:
                self._crash(shut_down=decisions % 3 == 0)
            elif story.state.status.is_settled:
                if not self._tell_hook() and not self._ask():
                    return
            else:
                self._turn()
        raise AssertionError(f"no end after {_MOST_TURNS} turns")

    def _crash(self, *, shut_down: bool) -> None:
        """End the worker after this append; another one goes on."""
        story = self.story
        if shut_down:
            story.send(HandOver(at=story.at))
        story.reload()
        story.send(Wake(at=story.at) if shut_down else recover(story.at))

    def _tell_hook(self) -> bool:
        hook = self.story.hook()
        if hook is None:
            return False
        self.story.at = max(self.story.at, hook.not_before or self.story.at)
        failed = next(self._moves) in {"fail", "doubt", "permanent"}
        self.story.tell(hook.hook, failed=failed)
        return True

    def _ask(self) -> bool:
        """Let a person ask for something that is legal."""
        choice = next(self._verbs, None)
        legal = legal_verbs(self.story.definition, self.story.state)
        if choice is None or not legal:
            return False
        self.story.send(command_of(legal[choice % len(legal)], self.story.at))
        return True

    def _turn(self) -> None:
        story = self.story
        running, children = story.due(), self._children()
        chosen = next(self._picks) % max(len(running) + len(children), 1)
        if chosen < len(running):
            self._end(running[chosen], next(self._moves))
        elif children and (story.wake_at() is None or chosen):
            self._end_child(children[chosen - len(running)], next(self._moves))
        else:
            self._wait()

    def _children(self) -> list[StepName]:
        return list(self.story.state.open_in(Phase.CHILD, Phase.CHILD_UNDO))

    def _wait(self) -> None:
        story = self.story
        wake_at = story.wake_at()
        if wake_at is not None:
            story.at = max(story.at, wake_at)
            story.send(Wake(at=story.at))
            return
        waiting = [story.state.steps[name].waits_for for name in story.state.open_steps]
        name = next((name for name in waiting if name is not None), None)
        assert name is not None, f"nothing is due: {story.state}"
        self._say(name)

    def _say(self, name: str) -> None:
        known = {
            leaf.signal
            for leaf in self.story.definition.steps.values()
            if isinstance(leaf, SignalDefinition)
        }
        if name in known:
            number = next(self._signals)
            said = signal({"shared": number % 2}, name=name, number=number, at=self.story.at)
            self.story.send(said)
            assert self.story.send(said) == ()

    def _end_child(self, name: StepName, move: str) -> None:
        story = self.story
        step, refused = story.state.steps[name], False
        status = Status.COMPLETED if step.phase is Phase.CHILD else Status.COMPENSATED
        if move in {"fail", "permanent", "doubt"}:
            status = Status.COMPENSATED if step.phase is Phase.CHILD else Status.FAILED
        elif move == "refused":
            refused = step.phase is Phase.CHILD_UNDO
        told = child_ended(
            name,
            status,
            attempt=step.attempt,
            refused=refused,
            context={"shared": move},
            at=story.at,
        )
        story.send(told)
        assert story.send(told) == ()

    def _end(self, effect: RunStep, move: str) -> None:  # noqa: C901, PLR0912 - a list of moves
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
                if Legal(Verb.CANCEL) in legal_verbs(story.definition, story.state):
                    story.send(cancel(at))
            case "poison":
                story.send(POISON)
            case "signal":
                self._say("yes")
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
