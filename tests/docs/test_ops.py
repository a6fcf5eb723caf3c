"""Do the files of `ops/` fit what workers tell? Every query is parsed, and asks for what exists."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from eventsaga import Orchestrator
from eventsaga.metrics import Metrics
from eventsaga.observe.alert import Alert, AlertKind
from tests.runtime.sagas import QUICK, nothing, one_step

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "ops/prometheus-rules.yml"
BOARD: Final = ROOT / "ops/grafana/eventsaga.json"
COMPOSE: Final = ROOT / "docker-compose.yml"

_NAME: Final = re.compile(r"\bsagas?_[a-z_]+")
_LABELS: Final = {"saga_name"}


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _panels() -> list[dict[str, Any]]:
    return list(json.loads(BOARD.read_text("utf-8"))["panels"])


def _queries() -> Iterator[tuple[str, str]]:
    for rule in _rules():
        yield rule["alert"], rule["expr"]
    for panel in _panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def _asked(query: str) -> set[str]:
    """Return the metrics that *query* asks for, those of histograms by their own name."""
    names = set(_NAME.findall(query)) - _LABELS
    return {
        re.sub(r"(?<=seconds)_(bucket|sum|count)$|(?<=size)_(sum|count)$", "", name)
        for name in names
    }


@pytest.mark.parametrize(("where", "query"), list(_queries()))
def test_every_query_can_be_parsed(where: str, query: str) -> None:
    plain = query.replace("$__rate_interval", "5m").replace("$saga", ".*")
    assert "$" not in plain, where
    promql_parser.parse(plain)


async def test_every_query_asks_for_what_exists(database: str) -> None:
    orchestrator = Orchestrator(database, sagas=[one_step(nothing)], settings=QUICK)
    metrics = Metrics(orchestrator, CollectorRegistry())
    async with orchestrator:
        orchestrator._observers.watched([Alert(kind=AlertKind.STUCK, saga_name="one")])
        text = (await metrics.exposition()).decode()
    known = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text)
    }

    assert {
        where: missing for where, query in _queries() if (missing := _asked(query) - known)
    } == {}
    asked = set[str]().union(*(_asked(query) for _, query in _queries()))
    # What nobody looks at need not be there.
    unseen = known - asked
    assert {name for name in unseen if name.startswith("saga") and "_created" not in name} == set()


def test_every_rule_says_what_to_do_and_names_kinds_that_exist() -> None:
    kinds = {kind.value for kind in AlertKind}
    for rule in _rules():
        assert rule["annotations"]["remedy"], rule["alert"]
        assert set(re.findall(r'kind="(\w+)"', rule["expr"])) <= kinds


def test_panels_do_not_lie_on_one_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in _panels():
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


def test_rules_pass_promtool() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("##### LEFT OUT: there is no promtool; the rules were parsed only #####")
    subprocess.run([promtool, "check", "rules", RULES], check=True, capture_output=True)


def test_the_compose_file_fits_its_specification() -> None:
    checked = Path(sys.executable).with_name("check-jsonschema")
    subprocess.run(
        [checked, "--builtin-schema", "vendor.compose-spec", COMPOSE],
        check=True,
        capture_output=True,
    )


def _compose() -> list[str] | None:
    """Return how Docker Compose is called here; None if it is not."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is not None:
            asked = subprocess.run([*command, "version"], capture_output=True, check=False)
            if asked.returncode == 0:
                return command
    return None


def test_the_compose_file_passes_docker_compose() -> None:
    compose = _compose()
    if compose is None:
        pytest.skip("##### LEFT OUT: there is no Docker Compose; only the schema was checked #####")
    profiles = ["--profile", "worker", "--profile", "demo", "--profile", "see"]
    command = [*compose, "--file", str(COMPOSE), *profiles, "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_whatever_compose_mounts_is_there() -> None:
    services = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    for name, service in services.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
