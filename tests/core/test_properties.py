"""What holds for every saga, whatever happens to it? Hypothesis looks for a way out."""

from datetime import timedelta

from hypothesis import HealthCheck, given, settings

from eventsaga.core.commands import Wake
from eventsaga.core.decide import decide
from eventsaga.core.definition import group_of
from eventsaga.core.events import (
    ChildStarted,
    ForEachStarted,
    SagaEvent,
    SignalAwaited,
    StepStarted,
    TimerStarted,
)
from eventsaga.core.evolve import evolve, replay
from eventsaga.core.react import RunHook, WakeAt, react
from eventsaga.core.ready import is_at_rest
from eventsaga.core.state import State, Status
from tests.core.histories import SAGA
from tests.core.invariants import complaints
from tests.core.plots import Player, Plot, played, plots

BOUNDED = settings(
    max_examples=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@BOUNDED
@given(plots())
def test_every_story_ends_and_breaks_no_invariant(plot: Plot) -> None:
    story = played(plot)

    assert story.state.status.is_settled
    assert is_at_rest(plot.definition, story.state)
    assert complaints(plot.definition, story.events) == []


@BOUNDED
@given(plots())
def test_no_beginning_of_a_story_breaks_an_invariant(plot: Plot) -> None:
    """The store may be read after any append."""
    for story in Player(plot).play():
        assert complaints(plot.definition, story.events) == []


@BOUNDED
@given(plots())
def test_the_live_state_is_the_fold_of_all_events(plot: Plot) -> None:
    for story in Player(plot).play():
        replayed = replay(story.events, State(SAGA))

        assert story.state == replayed
        assert list(story.state.open_steps) == list(replayed.open_steps)
        assert react(plot.definition, story.state) == react(plot.definition, replayed)


@BOUNDED
@given(plots())
def test_neither_folding_nor_deciding_changes_the_state_it_was_given(plot: Plot) -> None:
    kept: list[tuple[State, str]] = []
    for story in Player(plot).play():
        before = repr(story.state)
        react(plot.definition, story.state)
        evolve(story.state, story.events[0])
        assert repr(story.state) == before
        kept.append((story.state, before))

    assert all(repr(state) == before for state, before in kept)


@BOUNDED
@given(plots())
def test_an_unsettled_saga_has_something_due_or_waits_for_somebody_outside(plot: Plot) -> None:
    for story in Player(plot).play():
        effects = react(plot.definition, story.state)

        if story.state.status.is_settled:
            assert not effects or isinstance(effects[0], RunHook)
        else:
            assert effects or story.waits_for_others()
        assert sum(isinstance(effect, WakeAt) for effect in effects) <= 1


@BOUNDED
@given(plots())
def test_a_crash_after_any_append_loses_no_effect(plot: Plot) -> None:
    """What storage asks for at each version is what the live worker was asked."""
    owed: dict[int, tuple[object, ...]] = {}
    events: list[SagaEvent] = []
    for story in Player(plot).play():
        owed[story.state.seq] = react(plot.definition, story.state)
        events = story.events

    for version, effects in owed.items():
        assert react(plot.definition, replay(events[:version], State(SAGA))) == effects


@BOUNDED
@given(plots(calm=True))
def test_a_saga_to_which_nothing_happens_starts_each_step_once(plot: Plot) -> None:
    story = played(Plot(plot.definition, (), plot.picks, frozenset()))

    assert story.state.status is Status.COMPLETED
    begun = [
        event.step
        for event in story.events
        if isinstance(
            event, StepStarted | ChildStarted | ForEachStarted | SignalAwaited | TimerStarted
        )
    ]
    assert sorted(name for name in begun if group_of(name) is None) == sorted(plot.definition.order)


@BOUNDED
@given(plots())
def test_folding_in_place_leads_to_the_same_events_and_states(plot: Plot) -> None:
    for story, other in zip(Player(plot).play(), Player(plot, in_place=True).play(), strict=True):
        assert story.events == other.events
        assert story.state == other.state
        assert list(story.state.open_steps) == list(other.state.open_steps)


@BOUNDED
@given(plots())
def test_a_saga_that_only_waits_is_woken_neither_late_nor_in_vain(plot: Plot) -> None:
    """Whoever sleeps until the instant that `react` names misses nothing."""
    for story in Player(plot).play():
        wake_at = story.wake_at()
        if wake_at is None or story.due():
            continue
        now = max(story.at, wake_at)
        assert decide(plot.definition, story.state, Wake(at=now), story.answers) != ()
        if wake_at > story.at:
            early = wake_at - timedelta(microseconds=1)
            assert decide(plot.definition, story.state, Wake(at=early), story.answers) == ()
