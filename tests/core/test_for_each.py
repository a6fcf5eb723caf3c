from time import perf_counter

import pytest

from eventsaga.core.commands import Wake
from eventsaga.core.definition import ForEachDefinition, OnDoubt, item_index, item_name
from eventsaga.core.events import (
    CompensationStarted,
    ForEachStarted,
    Resolution,
    StepCompensated,
    StepCompensationStarted,
    StepFailed,
    StepStarted,
    StepSucceeded,
    TurnReason,
)
from eventsaga.core.state import Phase, Status
from eventsaga.errors import DefinitionError, IllegalCommandError
from tests.core.histories import (
    BAD,
    COMPENSATE,
    EXECUTE,
    POISON,
    SECOND,
    T0,
    TWICE,
    Says,
    Script,
    Story,
    begun,
    drive,
    fail,
    for_each,
    kinds,
    parallel,
    pivot,
    resolve,
    retry,
    saga,
    start,
    step,
    succeed,
)

FOUR = Says(each=("w", "x", "y", "z"))
EACH = saga(step("a"), for_each(), step("b"))


def test_items_are_recorded_and_begun_in_order_as_many_as_there_is_room_for() -> None:
    story = begun(EACH, answers=FOUR)

    assert kinds(story.send(succeed("a"))) == [
        "StepSucceeded a",
        "ForEachStarted each",
        "StepStarted each[0]",
        "StepStarted each[1]",
    ]
    assert story.of(ForEachStarted)[0].items == ("w", "x", "y", "z")
    assert story.of(StepStarted)[-1].idempotency_key == f"{story.state.saga_id}/each[1]"


def test_the_end_of_an_item_lets_the_next_one_in() -> None:
    story = begun(EACH, answers=FOUR)
    story.send(succeed("a"))

    assert kinds(story.send(succeed("each[1]"))) == ["StepSucceeded each[1]", "StepStarted each[2]"]


def test_the_last_item_ends_the_group() -> None:
    story = begun(EACH, answers=Says(each=("w",)))
    story.send(succeed("a"))

    assert kinds(story.send(succeed("each[0]"))) == [
        "StepSucceeded each[0]",
        "StepSucceeded each",
        "StepStarted b",
    ]


def test_a_group_without_items_is_over_at_once() -> None:
    story = begun(EACH, answers=Says(each=()))

    assert kinds(story.send(succeed("a"))) == [
        "StepSucceeded a",
        "ForEachStarted each",
        "StepSucceeded each",
        "StepStarted b",
    ]


def test_items_are_computed_once() -> None:
    story = drive(EACH, {("each[0]", EXECUTE, 1): "crash"}, answers=Says())

    assert story.answers.asked == ["each"]
    assert story.state.status is Status.COMPLETED


def test_results_are_merged_or_collected_in_the_order_of_the_items() -> None:
    script: Script = {("each[0]", EXECUTE, 1): {"p": 0}, ("each[1]", EXECUTE, 1): {"q": 1}}

    assert drive(saga(for_each()), script).state.context == {"p": 0, "q": 1}
    collected = begun(saga(for_each(into="all"))).go_on(
        lambda effect: script[effect.step, EXECUTE, 1], lambda count: count - 1
    )
    assert collected.state.context == {"all": [{"p": 0}, {"q": 1}]}
    assert collected.of(StepSucceeded)[-1].result is None


def test_items_that_return_different_values_contradict_each_other() -> None:
    script: Script = {("each[0]", EXECUTE, 1): {"p": 0}, ("each[1]", EXECUTE, 1): {"p": 1}}

    story = drive(saga(for_each()), script)

    assert story.of(CompensationStarted)[0].reason is TurnReason.CONFLICT
    assert story.of(StepSucceeded)[1].conflict == (
        "'each[1]' and 'each[0]' returned different values for p"
    )
    assert story.state.status is Status.COMPENSATED


def test_items_and_a_branch_beside_them_contradict_each_other() -> None:
    definition = saga(parallel(for_each(), step("a")))
    items: Script = {("each[0]", EXECUTE, 1): {"p": 0}}

    story = drive(definition, {**items, ("a", EXECUTE, 1): {"p": 1}})

    assert [event.conflict for event in story.of(StepSucceeded) if event.conflict] == [
        "'a' and 'each[0]' returned different values for p"
    ]


@pytest.mark.parametrize("last", ["a", "each"])
def test_a_collected_list_and_a_branch_beside_it_contradict_each_other(last: str) -> None:
    definition = saga(parallel(for_each(into="p"), step("a")))
    story = begun(definition, answers=Says(each=("w",)))

    results = {"a": succeed("a", {"p": 1}), "each": succeed("each[0]", {"q": 1})}
    story.send(results["each" if last == "a" else "a"], results[last])

    conflicts = [event.conflict for event in story.of(StepSucceeded) if event.conflict]
    assert len(conflicts) == 1
    assert "different values for p" in str(conflicts[0])
    assert story.state.turn is not None


def test_a_collected_list_and_an_equal_value_beside_it_agree() -> None:
    story = begun(saga(parallel(for_each(into="p"), step("a"))), answers=Says(each=("w",)))
    story.send(succeed("a", {"p": [{"q": 1}]}), succeed("each[0]", {"q": 1}))

    assert story.state.status is Status.COMPLETED


def test_a_failed_item_compensates_those_that_ran_as_many_at_once_as_there_is_room_for() -> None:
    story = drive(EACH, {("each[3]", EXECUTE, 1): "fail"}, answers=FOUR)
    back = kinds(story.events)[kinds(story.events).index("CompensationStarted") :]

    assert back == [
        "CompensationStarted",
        "StepCompensationStarted each[2]",
        "StepCompensationStarted each[1]",
        "StepCompensated each[2]",
        "StepCompensationStarted each[0]",
        "StepCompensated each[1]",
        "StepCompensated each[0]",
        "StepCompensationStarted a",
        "StepCompensated a",
        "SagaCompensated",
    ]


def test_items_that_were_never_begun_are_not_touched() -> None:
    story = drive(EACH, {("each[0]", EXECUTE, 1): "fail"}, answers=FOUR)

    assert {event.step for event in story.of(StepStarted)} == {"a", "each[0]", "each[1]"}
    assert [event.step for event in story.of(StepCompensated)] == ["each[1]", "a"]


def test_a_later_failure_compensates_all_items() -> None:
    story = drive(EACH, {("b", EXECUTE, 1): "fail"}, answers=FOUR)

    assert [event.step for event in story.of(StepCompensated)] == [
        *(f"each[{index}]" for index in (3, 2, 1, 0)),
        "a",
    ]


def test_items_without_compensation_hold_up_nobody() -> None:
    definition = saga(step("a"), for_each(of=step("item", compensable=False)), step("b"))

    story = drive(definition, {("b", EXECUTE, 1): "fail"})

    assert [event.step for event in story.of(StepCompensated)] == ["a"]


def test_a_group_without_items_does_not_hide_what_stands_behind_it() -> None:
    definition = saga(step("a"), for_each(), step("b"), step("c"))

    story = drive(definition, {("c", EXECUTE, 1): "fail"}, answers=Says(each=()))

    assert kinds(story.events)[-5:] == [
        "StepCompensationStarted b",
        "StepCompensated b",
        "StepCompensationStarted a",
        "StepCompensated a",
        "SagaCompensated",
    ]


def test_an_item_is_tried_again_by_the_policy_and_keeps_its_place() -> None:
    story = begun(saga(for_each(of=step("item", retry=TWICE))), answers=FOUR)
    assert kinds(story.send(fail("each[0]"))) == ["StepFailed each[0]"]

    assert kinds(story.wake(SECOND)) == ["StepStarted each[0]"]
    assert story.state.items["each"].under_way == 2


def test_items_may_be_conditional() -> None:
    definition = saga(for_each(of=step("item", conditional=True), into="all"))
    answers = Says(each=("w", "x", "y"), **{"each[0]": False, "each[2]": False})

    story = drive(definition, {("each[1]", EXECUTE, 1): {"p": 1}}, answers=answers)

    assert kinds(story.events)[2:] == [
        "StepSkipped each[0]",
        "StepStarted each[1]",
        "StepSkipped each[2]",
        "StepSucceeded each[1]",
        "StepSucceeded each",
        "SagaCompleted",
    ]
    assert story.state.context == {"all": [None, {"p": 1}, None]}


def test_an_item_whose_condition_raises_turns_the_saga_back() -> None:
    definition = saga(for_each(of=step("item", conditional=True)))

    story = drive(definition, answers=Says(**{"each[1]": BAD}))

    assert story.of(StepFailed)[0].attempt == 0
    assert [event.step for event in story.of(StepCompensated)] == ["each[0]"]


def test_a_worker_that_stops_begins_no_item_and_the_next_one_does() -> None:
    story = begun(saga(for_each()), answers=FOUR)
    assert kinds(story.send(succeed("each[0]", hold=True))) == ["StepSucceeded each[0]"]
    story.send(succeed("each[1]", hold=True))
    story.reload()

    assert story.wake_at() == T0
    assert kinds(story.wake()) == ["StepStarted each[2]", "StepStarted each[3]"]


def test_a_worker_that_stops_records_the_end_of_a_group() -> None:
    story = begun(saga(for_each(), step("b")))
    story.send(succeed("each[0]", hold=True))

    assert kinds(story.send(succeed("each[1]", hold=True))) == [
        "StepSucceeded each[1]",
        "StepSucceeded each",
    ]
    assert kinds(story.wake()) == ["StepStarted b"]


def test_a_stuck_item_is_resolved_with_its_result() -> None:
    definition = saga(for_each(of=step("item", on_doubt=OnDoubt.PARK), into="all"))
    story = drive(definition, {("each[0]", EXECUTE, 1): "doubt"})
    assert kinds(story.events)[-1] == "SagaParked"

    story.send(resolve("each[0]", Resolution.SUCCEEDED, {"p": 1}))

    assert story.state.status is Status.COMPLETED
    assert story.state.context == {"all": [{"p": 1}, None]}


def test_an_item_that_waits_is_still_compensated_before_what_its_group_depends_on() -> None:
    undone_late = step("item", compensate_retry=TWICE)
    story = begun(saga(step("a"), for_each(of=undone_late), step("b")))
    story.send(succeed("a"), succeed("each[0]"), succeed("each[1]"), fail("b"))
    story.send(fail("each[0]", operation=COMPENSATE), succeed("each[1]", operation=COMPENSATE))

    assert "a" not in [event.step for event in story.of(StepCompensationStarted)]
    assert story.wake_at() is not None


def test_a_retried_compensation_of_an_item_holds_up_what_its_group_depends_on() -> None:
    definition = saga(step("a"), for_each(at_once=1), step("b"))
    story = begun(definition)
    story.send(succeed("a"), succeed("each[0]"), succeed("each[1]"), fail("b"))
    story.send(fail("each[1]", operation=COMPENSATE), POISON)
    assert story.state.stuck_steps == {"each[1]": None}

    story.send(retry())
    story.go_on(lambda _: "ok")

    assert [event.step for event in story.of(StepCompensated)][-1] == "a"
    assert story.state.status is Status.COMPENSATED


def test_a_collected_list_that_contradicts_after_the_pivot_parks_and_is_resolved() -> None:
    definition = saga(pivot(), parallel(for_each(into="p"), step("a")))
    story = begun(definition)
    story.send(succeed("pivot"), succeed("a", {"p": 1}), succeed("each[0]"), succeed("each[1]"))
    assert kinds(story.events)[-1] == "SagaParked"
    assert story.state.steps["each"].phase is Phase.STUCK

    with pytest.raises(IllegalCommandError):
        story.send(retry("each"))
    story.send(resolve("each", Resolution.SUCCEEDED, {}))

    assert story.state.status is Status.COMPLETED
    assert story.state.context == {"p": 1}


def test_an_item_knows_its_group_and_its_number() -> None:
    assert item_name("each", 12) == "each[12]"
    assert item_index("each[12]") == 12
    assert EACH.task("each[12]") is EACH.task("each")


def test_a_group_that_cannot_work_is_refused() -> None:
    with pytest.raises(DefinitionError, match="max_concurrency must be at least 1"):
        for_each(at_once=0)
    with pytest.raises(DefinitionError, match="a pivot cannot be done for each item"):
        ForEachDefinition(name="each", step=pivot())


def _seconds_per_item(count: int) -> tuple[float, float]:
    """Return the price of an item, forward and back."""
    items = for_each(at_once=10)
    answers = Says(each=tuple(range(count)))
    story = Story(saga(items, step("b")), answers, in_place=True)
    began = perf_counter()
    story.send(start(), Wake(at=T0))
    for index in range(count):
        story.due()
        story.send(succeed(f"each[{index}]", {"n": 1}))
    forward = perf_counter() - began
    began = perf_counter()
    story.send(fail("b"))
    for index in reversed(range(count)):
        story.due()
        story.send(succeed(f"each[{index}]", operation=COMPENSATE))
    assert story.state.status is Status.COMPENSATED
    return forward / count, (perf_counter() - began) / count


def test_the_price_of_an_item_does_not_grow_with_their_number() -> None:
    """Were it to look at all items, ten times as many would cost ten times as much each."""
    few = [_seconds_per_item(500) for _ in range(2)]
    forward, back = _seconds_per_item(10_000)

    assert forward < 4 * min(price for price, _ in few)
    assert back < 4 * min(price for _, price in few)
