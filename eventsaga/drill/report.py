"""How is it told how a drill went? As data: a result for each run, and all of them together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from eventsaga.drill.boundary import Boundary
from eventsaga.drill.judge import Finding, totals
from eventsaga.drill.plan import Case
from eventsaga.drill.recorder import Sent, keyed
from eventsaga.observe.timeline import Line


class Outcome(StrEnum):
    """What came of a run."""

    OK = "ok"
    VIOLATED = "violated"
    NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run.

    Attributes:
        case: The fault; None for a clean run.
        outcome: What came of it.
        saga_id: Its saga.
        status: How the saga ended; where it stood, if it did not.
        recovered: Seconds from the fault (for ``db-restart``, from the server's return) until
            the saga had ended; None if there was no fault or no end.
        seconds: How long the run took in all.
        findings: What is wrong.
        requests: What the steps sent.
        lines: What happened to the saga.
    """

    case: Case | None
    outcome: Outcome
    saga_id: UUID
    status: str
    recovered: float | None = None
    seconds: float
    findings: Sequence[Finding] = ()
    requests: Sequence[Sent] = ()
    lines: Sequence[Line] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.outcome is not Outcome.VIOLATED

    @property
    def title(self) -> str:
        """The fault, in words."""
        return "no fault" if self.case is None else fault_of(self.case)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data; with the history if something is wrong."""
        case = self.case
        told: dict[str, Any] = {
            "boundary": None if case is None else boundary_data(case.boundary),
            "fault": None if case is None else case.mode,
            "second": None if case is None or case.second is None else case.second.place,
            "outcome": self.outcome,
            "saga_id": self.saga_id,
            "status": self.status,
            "recovered_seconds": self.recovered,
            "seconds": round(self.seconds, 3),
            "findings": [asdict(finding) for finding in self.findings],
            "effects": totals(keyed(self.requests)),
        }
        if not self.ok:
            told["keys"] = [asdict(one) for one in keyed(self.requests)]
            told["requests"] = [asdict(request) for request in self.requests]
            told["timeline"] = [asdict(line) for line in self.lines]
        return told


def fault_of(case: Case) -> str:
    """Return what happens in a run, in words."""
    second = "" if case.second is None else f", then again {case.second.place}"
    return f"{case.mode} {case.boundary.title}{second}"


def boundary_data(boundary: Boundary) -> dict[str, Any]:
    """Return a boundary as JSON data."""
    return {
        **asdict(boundary),
        "title": boundary.title,
        "step": boundary.step,
        "point": boundary.point,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole drill.

    Attributes:
        saga: Name of the saga.
        version: Version of its definition.
        boundaries: What its clean runs passed.
        clean: The runs without a fault: forward, and then back if it was made to compensate.
        results: The runs with a fault, in the order of the plan.
        notes: What was left out, and why.
        seconds: How long all took.
    """

    saga: str
    version: int
    boundaries: Sequence[Boundary]
    clean: Sequence[Result]
    results: Sequence[Result]
    notes: Sequence[str] = ()
    seconds: float

    counts: Counter[Outcome] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", Counter(result.outcome for result in self.results))

    @property
    def ok(self) -> bool:
        """Whether every run came through."""
        return all(result.ok for result in self.all)

    @property
    def all(self) -> Sequence[Result]:
        """Clean runs and others."""
        return [*self.clean, *self.results]

    def to_json(self) -> dict[str, Any]:
        """Return the whole as JSON data."""
        return {
            "ok": self.ok,
            "saga": self.saga,
            "version": self.version,
            "boundaries": len(self.boundaries),
            "counts": {str(outcome): self.counts[outcome] for outcome in Outcome},
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
            "clean": [result.to_json() for result in self.clean],
            "runs": [result.to_json() for result in self.results],
        }

    def require_ok(self) -> None:
        """Raise if a run did not come through; for tests.

        Raises:
            AssertionError: With what is wrong, and the history of the first offending saga.
        """
        broken = [result for result in self.all if not result.ok]
        if broken:
            raise AssertionError("\n".join(described(broken[0], more=len(broken) - 1)))


def described(result: Result, *, more: int = 0) -> list[str]:
    """Return what is wrong with a run, and its history, as lines of text."""
    lines = [f"{result.title}: saga {result.saga_id} is {result.status}"]
    lines += [f"  {finding.check}: {finding.message}" for finding in result.findings]
    start = result.lines[0].at if result.lines else None
    for line in result.lines:
        after = 0.0 if start is None else (line.at - start).total_seconds()
        lines.append(f"  +{after:.3f} s  {line.subject}  {line.outcome}  {line.detail}".rstrip())
    return [*lines, f"and {more} more runs are wrong"] if more else lines
