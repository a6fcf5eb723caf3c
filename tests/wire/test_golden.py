"""What was stored once can be read for ever: one golden file for each stored name.

A golden file is never edited once it was released. When the data of a name changes shape, its
schema version is raised, the old file stays and goes through an upcaster, and a new one is added.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from eventsaga.core.events import SagaEvent
from eventsaga.wire.codec import decode, encode, schema_version, stored_name
from tests.wire.samples import ADDITIONS, SAMPLES
from tests.wire.strategies import EVENT_TYPES

GOLDEN: Final = Path(__file__).parent / "golden"
FOREVER: Final = "golden files are never edited once released: raise the schema version instead"

by_name = pytest.mark.parametrize("event", SAMPLES, ids=stored_name)


def golden_text(event: SagaEvent) -> str:
    """Return the file that *event* ought to have."""
    name = stored_name(event)
    content = {
        "type": name,
        "schema_version": schema_version(name),
        "occurred_at": event.at.isoformat(),
        "data": encode(event).decode(),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def golden_path(event: SagaEvent) -> Path:
    name = stored_name(event)
    return GOLDEN / f"{name}.v{schema_version(name)}.json"


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_every_event_has_a_sample_and_a_stored_name_of_its_own() -> None:
    assert {type(event) for event in SAMPLES} == set(EVENT_TYPES)
    assert len({stored_name(event) for event in SAMPLES}) == len(EVENT_TYPES)


@by_name
def test_every_stored_name_has_a_golden_file(event: SagaEvent) -> None:
    path = golden_path(event)
    assert path.exists(), f"a new event needs {path} with this content:\n{golden_text(event)}"


@by_name
def test_an_event_is_written_as_its_golden_file_says(event: SagaEvent) -> None:
    """To the byte: a hash is computed over this text."""
    assert golden_path(event).read_text(encoding="utf-8") == golden_text(event), FOREVER


@by_name
def test_a_golden_file_of_this_version_gives_the_event(event: SagaEvent) -> None:
    golden = read(golden_path(event))

    at = datetime.fromisoformat(golden["occurred_at"])
    decoded = decode(golden["type"], golden["schema_version"], at, golden["data"])

    assert decoded == event, FOREVER


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_every_golden_file_ever_written_can_be_read(path: Path) -> None:
    """Also those of older versions and of names that are not written any more."""
    golden = read(path)

    at = datetime.fromisoformat(golden["occurred_at"])
    event = decode(golden["type"], golden["schema_version"], at, golden["data"])

    assert event.at == at
    assert path.name.startswith(f"{golden['type']}.v{golden['schema_version']}.")


@pytest.mark.parametrize("name", ADDITIONS)
def test_what_was_added_to_an_event_is_written_as_its_golden_file_says(name: str) -> None:
    event = ADDITIONS[name]
    stored, addition = name.split(".")
    path = GOLDEN / f"{stored}.v{schema_version(stored)}.{addition}.json"

    assert path.exists(), f"an addition needs {path} with this content:\n{golden_text(event)}"
    assert path.read_text(encoding="utf-8") == golden_text(event), FOREVER
    golden = read(path)
    assert decode(golden["type"], golden["schema_version"], event.at, golden["data"]) == event


def test_a_changed_field_name_does_not_go_unnoticed() -> None:
    """The comparison is able to fail: data of another shape is not the golden text."""
    event = SAMPLES[1]
    renamed = golden_text(event).replace("idempotency_key", "key")

    assert renamed != golden_path(event).read_text(encoding="utf-8")
