"""Is a drawing complete, always the same, and legal Mermaid?"""

import re
from datetime import timedelta

from hypothesis import given, settings

from eventsaga.core.commands import Wake
from eventsaga.core.definition import SignalDefinition
from eventsaga.core.draw import draw
from eventsaga.core.graph import SagaDefinition
from eventsaga.core.state import Phase, Status
from tests.core.histories import (
    T0,
    Story,
    child,
    fail,
    for_each,
    parallel,
    pivot,
    saga,
    sequence,
    sleep,
    start,
    step,
    succeed,
    wait,
)
from tests.core.plots import Player, Plot, plots

_ID = r"n_[A-Za-z0-9_]+"
_LABEL = r'"[^"]*"'
_LINE = re.compile(
    rf"""flowchart\ TD
    | \ +subgraph\ {_ID}\ \[{_LABEL}\]
    | \ +end
    | \ +{_ID}(\(\[{_LABEL}\]\)|\(\({_LABEL}\)\)|\({_LABEL}\)|\[\[{_LABEL}\]\]|\[{_LABEL}\]
              |\{{\{{{_LABEL}\}}\}}|\{{{_LABEL}\}}|>{_LABEL}\])
    | \ +{_ID}\ -->(\|{_LABEL}\|)?\ {_ID}
    | \ +classDef\ [a-z_]+\ \S.*
    | \ +class\ {_ID}(,{_ID})*\ [a-z_]+
    """,
    re.VERBOSE,
)
_NODE = re.compile(rf"^ +({_ID})(?=[(\[{{>])", re.MULTILINE)
_EDGE = re.compile(rf"^ +({_ID}) -->(?:\|.*?\|)? ({_ID})$", re.MULTILINE)


def classes(drawing: str) -> dict[str, str]:
    """Return the class of each node that has one."""
    found = re.findall(r"^ +class (\S+) (\S+)$", drawing, re.MULTILINE)
    return {node: name for nodes, name in found for node in nodes.split(",")}


@settings(max_examples=60)
@given(plots())
def test_every_line_is_legal_and_every_leaf_is_reached(plot: Plot) -> None:
    drawing = draw(plot.definition)

    assert drawing == draw(plot.definition)
    lines = drawing.splitlines()
    assert [line for line in lines if not _LINE.fullmatch(line)] == []
    nodes, edges = _NODE.findall(drawing), _EDGE.findall(drawing)
    assert len(nodes) == len(set(nodes))
    assert {end for edge in edges for end in edge} == set(nodes)
    assert {head for _, head in edges} == set(nodes) - {"n_start"}
    assert {tail for tail, _ in edges} == set(nodes) - {"n_end"}
    assert lines.count("flowchart TD") == 1


@settings(max_examples=40)
@given(plots())
def test_wherever_a_saga_stands_each_step_that_was_begun_has_a_colour(plot: Plot) -> None:
    for story in Player(plot).play():
        drawing = draw(plot.definition, story.state)
        begun = {name for name in story.state.steps if name in plot.definition.steps}
        assert {f"n_{name}" for name in begun} <= classes(drawing).keys()


def test_each_kind_of_node_has_its_own_form() -> None:
    definition = saga(
        step("reserve"),
        step("mail", compensable=False, conditional=True),
        parallel(step("pack"), sequence(sleep("nap"), wait("approval", "yes")), name="fulfil"),
        for_each("labels"),
        child("delivery"),
        pivot("confirm"),
    )

    drawing = draw(definition)

    for line in (
        'n_start(["order v1"])',
        'n_reserve["reserve<br/>↩ compensated"]',
        'n_mail_when{"mail?"}',
        'n_mail["mail"]',
        'subgraph n_fulfil ["fulfil"]',
        'n_nap("nap<br/>sleeps 0:00:01")',
        'n_approval>"approval<br/>waits for yes"]',
        'n_labels[["labels<br/>↩ compensated"]]',
        'n_delivery[["delivery<br/>saga delivery<br/>↩ compensated"]]',
        'n_confirm{{"confirm<br/>pivot: no way back"}}',
        'n_end(["completed"])',
        'n_mail_when -->|"yes"| n_mail',
        'n_mail_when -->|"no"| n_fulfil_fork',
        "n_fulfil_fork --> n_pack",
        "n_approval --> n_fulfil_join",
        "n_confirm --> n_end",
    ):
        assert line in drawing


def test_names_that_mermaid_would_take_for_its_own_or_for_one_are_told_apart() -> None:
    drawing = draw(saga(step("end"), step("a.b"), step("a_b"), step("start")))

    assert 'n_end_2["end' in drawing
    assert 'n_a_b["a.b' in drawing
    assert 'n_a_b_2["a_b' in drawing
    assert "n_end_2 --> n_a_b\n" in drawing


def test_what_would_end_a_label_is_escaped() -> None:
    node = SignalDefinition(name="wait", signal='"]<b>;#`')
    drawing = draw(SagaDefinition(name="order", nodes=(node,)))

    assert 'n_wait>"wait<br/>waits for #34;]#60;b#62;#59;#35;#96;"]' in drawing


def test_a_timeout_is_told_if_it_is_known() -> None:
    drawing = draw(saga(wait("approval", "yes", timeout=timedelta(days=2))))

    assert "waits for yes, at most 2 days, 0:00:00" in drawing


def test_a_living_saga_is_coloured_by_where_it_stands() -> None:
    definition = saga(step("a"), parallel(step("b"), step("c")), step("d"))
    story = Story(definition)
    story.send(start(), Wake(at=T0), succeed("a"), succeed("b"))

    drawing = draw(definition, story.state)
    assert classes(drawing) == {"n_a": "succeeded", "n_b": "succeeded", "n_c": "running"}
    assert 'n_start(["order v1<br/>RUNNING"])' in drawing
    assert "classDef running " in drawing

    story.send(fail("c", retryable=False))
    assert story.state.status is Status.COMPENSATING
    after = classes(draw(definition, story.state))
    assert (after["n_c"], after["n_b"]) == ("failed", "running")

    story.go_on(lambda _: "ok")
    assert classes(draw(definition, story.state)) == {
        "n_a": "compensated",
        "n_b": "compensated",
        "n_c": "failed",
        "n_start": "compensated",
    }


def test_a_saga_that_has_ended_is_marked_at_its_end() -> None:
    definition = saga(step("a"))
    story = Story(definition)
    story.send(start(), Wake(at=T0), succeed("a"))

    assert classes(draw(definition, story.state)) == {"n_a": "succeeded", "n_end": "succeeded"}


def test_the_items_of_a_group_are_counted() -> None:
    definition = saga(for_each("mails"))
    story = Story(definition)
    story.send(start(), Wake(at=T0))
    assert story.state.steps["mails"].phase is Phase.FANNED

    assert "0 of 2 done" in draw(definition, story.state)


def test_without_a_living_saga_there_are_no_colours() -> None:
    assert " class" not in draw(saga(step("a")))
