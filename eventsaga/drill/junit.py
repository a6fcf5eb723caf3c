"""How do CI servers read it? JUnit's XML: a test case for each run."""

import json
from dataclasses import asdict
from typing import Final
from xml.etree import ElementTree as ET

from eventsaga.drill.report import Outcome, Report, Result, described

# XML has no way to write the other ones, and a step may report anything.
_ALLOWED: Final = frozenset("\t\n\r")


def junit(report: Report) -> str:
    """Return *report* as a JUnit document."""
    name = f"eventsaga drill {report.saga} v{report.version}"
    failures = sum(not result.ok for result in report.all)
    skipped = report.counts[Outcome.NOT_REACHED]
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites,
        "testsuite",
        name=name,
        tests=str(len(report.all)),
        failures=str(failures),
        errors="0",
        skipped=str(skipped),
        time=f"{report.seconds:.3f}",
    )
    for number, result in enumerate(report.all):
        suite.append(_case(name, number, result))
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: str, number: int, result: Result) -> ET.Element:
    mode = "clean" if result.case is None else result.case.mode
    # Two boundaries may read alike; names of test cases must not.
    name = _printable(f"{number:03d} {result.title}")
    case = ET.Element(
        "testcase", classname=f"{suite}.{mode}", name=name, time=f"{result.seconds:.3f}"
    )
    if result.outcome is Outcome.VIOLATED:
        said = "; ".join(finding.message for finding in result.findings)
        failure = ET.SubElement(case, "failure", message=_printable(said), type="violation")
        failure.text = _printable("\n".join(described(result)))
        requests = [asdict(request) for request in result.requests]
        out = ET.SubElement(case, "system-out")
        out.text = _printable(json.dumps(requests, default=str, indent=1))
    elif result.outcome is Outcome.NOT_REACHED:
        ET.SubElement(case, "skipped", message="the run did not come by there")
    return case


def _printable(text: str) -> str:
    return "".join(
        c if c.isprintable() or c in _ALLOWED else "\N{REPLACEMENT CHARACTER}" for c in text
    )
