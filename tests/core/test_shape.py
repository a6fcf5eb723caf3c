"""Is a definition that was stored the one that is registered now?"""

from dataclasses import replace

import pytest

from eventsaga.core.definition import Node
from eventsaga.core.difference import changes
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.shape import nodes_from, shape_of
from eventsaga.errors import DefinitionError
from tests.core.histories import (
    SECOND,
    child,
    for_each,
    parallel,
    pivot,
    saga,
    sequence,
    sleep,
    step,
    wait,
)

EVERYTHING = saga(
    step("a", conditional=True),
    parallel(
        sequence(step("b", compensable=False), sleep(conditional=True)),
        wait(conditional=True),
        child(conditional=True),
        at_once=2,
    ),
    for_each(of=step("item", conditional=True), conditional=True),
    pivot(),
    child("c", undoable=False),
)


def test_a_stored_shape_gives_a_definition_with_the_same_fingerprint() -> None:
    nodes = nodes_from(EVERYTHING.shape())

    assert SagaDefinition(name="order", nodes=nodes).fingerprint == EVERYTHING.fingerprint
    assert shape_of("order", nodes) == EVERYTHING.shape()


def test_what_is_not_set_is_not_written() -> None:
    """So a property that comes later does not change the fingerprints of those without it."""
    assert shape_of("s", [step("a"), sleep(), wait(), child(), for_each()])["nodes"] == [
        {"step": "a", "compensable": True},
        {"sleep": "nap"},
        {"wait": "approval", "signal": "approved"},
        {"child": "child", "saga": "delivery"},
        {"for_each": "each", "of": {"step": "item", "compensable": True}},
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (step("a"), step("a", conditional=True)),
        (sleep("a"), sleep("a", conditional=True)),
        (wait("a"), wait("a", "refused")),
        (child("a"), replace(child("a"), saga="other")),
        (sleep("a"), wait("a")),
        (for_each("a"), step("a")),
        (for_each("a"), for_each("a", step("item", compensable=False))),
    ],
)
def test_a_change_of_a_node_changes_the_fingerprint(one: Node, other: Node) -> None:
    assert saga(one).fingerprint != saga(other).fingerprint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (sleep("a", SECOND), sleep("a", None)),
        (wait("a"), wait("a", timeout=SECOND, into="x")),
        (child("a"), child("a", into="x")),
        (for_each("a"), for_each("a", at_once=9, into="x")),
        (parallel(step("a"), step("b")), parallel(step("a"), step("b"), at_once=1)),
    ],
)
def test_a_change_of_policy_does_not_change_the_fingerprint(one: Node, other: Node) -> None:
    assert saga(one).fingerprint == saga(other).fingerprint


UNREADABLE: list[dict[str, object]] = [
    {},
    {"nodes": None},
    {"nodes": [{}]},
    {"nodes": ["a"]},
    {"nodes": [{"step": "a"}]},
    {"nodes": [{"gate": "a"}]},
    {"nodes": [{"for_each": "a", "of": {"sleep": "b"}}]},
]


@pytest.mark.parametrize("shape", UNREADABLE)
def test_a_shape_that_cannot_be_read_is_refused(shape: dict[str, object]) -> None:
    with pytest.raises(DefinitionError, match="shape"):
        nodes_from(shape)


BEFORE = saga(step("a"), step("b"), sleep("c")).shape()


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (saga(step("a"), step("b")), "'c' is gone"),
        (saga(step("a"), step("b"), sleep("c"), step("d")), "'d' is new"),
        (saga(step("b"), step("a"), sleep("c")), "the order is another"),
        (
            saga(step("a", compensable=False), step("b"), sleep("c")),
            "'a' is of another kind, or can be undone where it could not",
        ),
        (saga(parallel(step("a"), step("b")), sleep("c")), "its nodes are nested in another way"),
    ],
)
def test_what_has_changed_is_said_in_the_words_of_the_author(
    after: SagaDefinition, told: str
) -> None:
    assert changes(BEFORE, after) == told


def test_what_is_not_known_of_the_old_shape_is_said_too() -> None:
    assert changes(None, EVERYTHING) == "its old shape is not known"
    assert changes({"nodes": [{"gate": "a"}]}, EVERYTHING) == "its old shape cannot be read"
