"""Do JSON, JUnit's XML and the error of a test tell what a drill found?"""

import json
from datetime import UTC, datetime
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest

from eventsaga.core.definition import StepName
from eventsaga.drill import Boundary, Finding, Mode, Outcome, Report, Result, Sent, junit
from eventsaga.drill.plan import cases
from eventsaga.observe.timeline import Line

AT = datetime(2026, 1, 1, tzinfo=UTC)
BOUNDARY = Boundary(1, "after_effect", "execute/charge", 1, back=False)
(CASE,) = cases([BOUNDARY], [Mode.KILL])
SENT = Sent(AT, "POST", "http://till/charge", "k", 1, 200, AT)


def result(outcome: Outcome, *findings: Finding) -> Result:
    line = Line(
        seq=1, at=AT, step=StepName("charge"), operation="execute", attempt=1, outcome="succeeded"
    )
    return Result(
        case=CASE,
        outcome=outcome,
        saga_id=UUID(int=1),
        status="COMPLETED",
        recovered=0.25,
        seconds=1.5,
        findings=findings,
        requests=(SENT,),
        lines=(line,),
    )


VIOLATED = result(Outcome.VIOLATED, Finding("check", "paid twice\x00"))


def report(*results: Result) -> Report:
    return Report(
        saga="paid", version=1, boundaries=[BOUNDARY], clean=[], results=results, seconds=2.0
    )


def test_a_run_that_came_through_is_told_in_short() -> None:
    told = json.loads(json.dumps(report(result(Outcome.OK)).to_json(), default=str))

    (run,) = told["runs"]
    assert told["ok"]
    assert told["counts"] == {"ok": 1, "violated": 0, "not reached": 0}
    assert run["boundary"]["point"] == "after_effect[execute/charge]@1"
    assert run["boundary"]["title"] == "after doing charge"
    assert run["recovered_seconds"] == 0.25
    assert run["effects"] == {"keys": 1, "requests": 1, "most_effects_per_key": 1}
    assert "timeline" not in run


def test_a_violation_is_told_with_requests_and_history() -> None:
    told = report(VIOLATED).to_json()

    (run,) = told["runs"]
    assert not told["ok"]
    assert run["requests"][0]["key"] == "k"
    assert run["timeline"][0]["step"] == "charge"


def test_a_test_fails_with_the_history_of_the_first_offending_saga() -> None:
    with pytest.raises(AssertionError) as failed:
        report(result(Outcome.OK), VIOLATED, VIOLATED).require_ok()

    assert str(failed.value).splitlines() == [
        f"kill after doing charge: saga {UUID(int=1)} is COMPLETED",
        "  check: paid twice\x00",
        "  +0.000 s  charge #1  succeeded",
        "and 1 more runs are wrong",
    ]


def test_a_boundary_that_was_not_reached_is_no_violation() -> None:
    report(result(Outcome.NOT_REACHED)).require_ok()


def test_junit_has_a_case_for_each_run_whatever_was_said() -> None:
    text = junit(report(result(Outcome.OK), VIOLATED, result(Outcome.NOT_REACHED)))

    suite = ET.fromstring(text)[0]  # noqa: S314 - our own
    counted = [suite.get(name) for name in ("tests", "failures", "skipped")]
    assert counted == ["3", "1", "1"]
    names = [case.get("name") for case in suite]
    assert len(set(names)) == 3
    assert [[part.tag for part in case] for case in suite] == [
        [],
        ["failure", "system-out"],
        ["skipped"],
    ]
    assert suite[1][0].get("message") == "paid twice\N{REPLACEMENT CHARACTER}"
