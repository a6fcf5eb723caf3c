from dataclasses import replace
from datetime import timedelta

import pytest

from eventsaga.core.definition import (
    ParallelDefinition,
    RetryPolicy,
    SequenceDefinition,
    StepDefinition,
)
from eventsaga.core.graph import SagaDefinition
from eventsaga.errors import DefinitionError
from tests.core.histories import parallel, saga, sequence, step

NESTED = saga(
    step("a"),
    parallel(step("b"), sequence(step("c"), parallel(step("d"), step("e"), name="inner"))),
    step("f"),
)


def test_the_order_of_steps_is_the_written_one() -> None:
    assert NESTED.order == tuple(NESTED.steps) == ("a", "b", "c", "d", "e", "f")


def test_a_step_waits_for_the_ends_of_what_is_written_before_it() -> None:
    assert dict(NESTED.predecessors) == {
        "a": (),
        "b": ("a",),
        "c": ("a",),
        "d": ("c",),
        "e": ("c",),
        "f": ("b", "d", "e"),
    }


def test_successors_mirror_predecessors() -> None:
    mirrored = {
        (before, after)
        for after, predecessors in NESTED.predecessors.items()
        for before in predecessors
    }

    assert {
        (before, after) for before, afters in NESTED.successors.items() for after in afters
    } == mirrored


def test_compensations_pass_over_the_steps_that_have_none() -> None:
    definition = saga(
        step("a"),
        step("b", compensable=False),
        parallel(step("c", compensable=False), step("d")),
        step("e"),
    )

    assert dict(definition.compensates_after) == {
        "a": ("e", "d"),
        "b": ("e", "d"),
        "c": ("e",),
        "d": ("e",),
        "e": (),
    }
    assert dict(definition.compensates_before) == {
        "a": (),
        "b": ("a",),
        "c": ("a",),
        "d": ("a",),
        "e": ("a", "d"),
    }


def test_steps_of_different_branches_may_run_at_the_same_time() -> None:
    assert dict(NESTED.concurrent) == {
        "a": frozenset(),
        "b": {"c", "d", "e"},
        "c": {"b"},
        "d": {"b", "e"},
        "e": {"b", "d"},
        "f": frozenset(),
    }


def test_a_parallel_group_may_stand_next_to_another_one() -> None:
    definition = saga(
        parallel(step("a"), step("b"), name="first"), parallel(step("c"), step("d"), name="second")
    )

    assert definition.predecessors["c"] == definition.predecessors["d"] == ("a", "b")
    assert definition.concurrent["c"] == {"d"}


def test_the_shape_leaves_policies_out() -> None:
    assert NESTED.shape()["nodes"][1] == {
        "parallel": "group",
        "branches": [
            {"step": "b", "compensable": True},
            {
                "sequence": [
                    {"step": "c", "compensable": True},
                    {
                        "parallel": "inner",
                        "branches": [
                            {"step": "d", "compensable": True},
                            {"step": "e", "compensable": True},
                        ],
                    },
                ]
            },
        ],
    }


def test_the_fingerprint_is_the_same_in_every_release() -> None:
    """It is stored: were it computed in another way, running sagas would be stranded."""
    assert saga(step("a")).fingerprint == "28ef8a00c51b52ce40b09fefca056bbc"
    assert NESTED.fingerprint == "0f939be6077a840741f856994d869d2f"


def test_policies_timeouts_and_deadlines_do_not_change_the_fingerprint() -> None:
    """Changing them cannot contradict a history, so it must not strand running sagas."""
    before = saga(step("a"))
    after = saga(
        replace(step("a", retry=RetryPolicy(max_attempts=9)), timeout=timedelta(seconds=1)),
        deadline=timedelta(days=1),
    )

    assert replace(after, version=2).fingerprint == before.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        saga(step("b"), step("a")),
        saga(step("a")),
        saga(step("a"), step("c")),
        saga(step("a"), step("b", compensable=False)),
        saga(parallel(step("a"), step("b"))),
        saga(sequence(step("a"), step("b"))),
        SagaDefinition(name="other", nodes=(step("a"), step("b"))),
    ],
)
def test_a_change_of_shape_changes_the_fingerprint(other: SagaDefinition) -> None:
    assert other.fingerprint != saga(step("a"), step("b")).fingerprint


def test_equal_definitions_are_equal() -> None:
    assert saga(step("a")) == saga(step("a"))
    assert saga(step("a")) != saga(step("b"))


def test_the_graph_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        NESTED.steps["z"] = step("z")  # type: ignore[index]  # pyright: ignore[reportIndexIssue]


def test_two_nodes_of_one_name_are_refused() -> None:
    with pytest.raises(DefinitionError, match="two nodes named 'a'"):
        saga(step("a"), sequence(step("a")))


def test_a_group_and_a_step_of_one_name_are_refused() -> None:
    with pytest.raises(DefinitionError, match="two nodes named 'group'"):
        saga(step("group"), parallel(step("a")))


def test_a_saga_without_steps_is_refused() -> None:
    with pytest.raises(DefinitionError, match="empty list of steps"):
        saga()


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(DefinitionError, match="empty list of steps"):
        saga(step("a"), SequenceDefinition(()))


def test_a_group_without_branches_is_refused() -> None:
    with pytest.raises(DefinitionError, match="group 'group' has no branches"):
        saga(ParallelDefinition("group", ()))


@pytest.mark.parametrize("name", ["", "1a", "a b", "a/b", "a\n", "é", "a" * 101, "-a"])
def test_an_ill_formed_name_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match="must start with a letter"):
        saga(step(name))
    with pytest.raises(DefinitionError, match="must start with a letter"):
        SagaDefinition(name=name, nodes=(step("a"),))


@pytest.mark.parametrize("name", ["a", "_", "A-b.c_9", "a" * 100])
def test_a_well_formed_name_is_taken(name: str) -> None:
    assert saga(step(name)).order == (name,)


def test_a_version_below_one_is_refused() -> None:
    with pytest.raises(DefinitionError, match="version must be at least 1"):
        SagaDefinition(name="order", version=0, nodes=(step("a"),))


@pytest.mark.parametrize("limit", [timedelta(0), timedelta(seconds=-1)])
def test_a_limit_that_is_not_positive_is_refused(limit: timedelta) -> None:
    with pytest.raises(DefinitionError, match="deadline must be positive"):
        saga(step("a"), deadline=limit)
    with pytest.raises(DefinitionError, match="timeout must be positive"):
        StepDefinition(name="a", timeout=limit)
