"""How does an event go to the database and back? Without loss, and never by guessing."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from eventsaga.core import events as ev
from eventsaga.errors import UnknownEventError
from eventsaga.wire.codec import decode, encode, schema_version, stored_name, upcast
from tests.wire.samples import AT, SAMPLES
from tests.wire.strategies import EVENTS


@given(EVENTS)
def test_every_event_comes_back_as_it_went(event: ev.SagaEvent) -> None:
    name = stored_name(event)

    decoded = decode(name, schema_version(name), event.at, encode(event).decode())

    assert decoded == event
    assert type(decoded) is type(event)


@given(EVENTS)
def test_an_event_that_came_back_is_written_as_before(event: ev.SagaEvent) -> None:
    """Otherwise a chain could not be verified by those who read it."""
    name = stored_name(event)
    text = encode(event)

    assert encode(decode(name, schema_version(name), event.at, text.decode())) == text


def test_the_comparison_notices_a_lost_field() -> None:
    """The round trip is able to fail: an event without one of its values is another event."""
    event = SAMPLES[3]
    assert isinstance(event, ev.StepFailed)
    data = json.loads(encode(event))
    del data["retry_at"]

    assert decode("StepFailed", 1, event.at, json.dumps(data)) == replace(event, retry_at=None)
    assert replace(event, retry_at=None) != event


def test_what_is_none_is_left_out() -> None:
    event = ev.StepFailed(at=AT, step="pay", attempt=1, error_type="E", message="m")

    assert encode(event) == b'{"step":"pay","attempt":1,"error_type":"E","message":"m"}'


def test_none_inside_a_result_is_kept() -> None:
    """A step that sets a field to None has said something."""
    event = ev.StepSucceeded(at=AT, step="pay", attempt=1, result={"paid": None, "at": {"at": 1}})

    text = encode(event).decode()

    assert json.loads(text)["result"] == {"paid": None, "at": {"at": 1}}
    assert decode("StepSucceeded", 1, AT, text) == event


def test_a_field_that_a_later_release_added_is_passed_over() -> None:
    """An optional field needs no new version, so old workers meet it in a rolling deploy."""
    text = '{"step":"pay","attempt":1,"idempotency_key":"k","added_later":[1]}'

    assert decode("StepStarted", 1, AT, text) == ev.StepStarted(
        at=AT, step="pay", attempt=1, idempotency_key="k"
    )


@pytest.mark.parametrize(("name", "version"), [("SagaTeleported", 1), ("StepStarted", 2)])
def test_what_a_newer_eventsaga_wrote_is_not_guessed_at(name: str, version: int) -> None:
    with pytest.raises(UnknownEventError) as caught:
        decode(name, version, AT, "{}")

    assert (caught.value.stored_type, caught.value.schema_version) == (name, version)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "null",
        "[]",
        '"text"',
        "1",
        "{}",
        "{",
        '{"step":"pay","attempt":"first","idempotency_key":"k"}',
        '{"step":"\\ud800","attempt":1,"idempotency_key":"k"}',
    ],
)
def test_data_that_is_not_what_its_name_stands_for_is_a_value_error(text: str | None) -> None:
    """Readers turn it into `CorruptHistoryError`; anything else would stop them."""
    with pytest.raises(ValueError):
        decode("StepStarted", 1, AT, text)


# -- upcasters --------------------------------------------------------------------------


def _renames(data: Mapping[str, Any]) -> Mapping[str, Any]:
    rest = {name: value for name, value in data.items() if name != "amount"}
    return {**rest, "cents": data["amount"] * 100}


def _adds(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**data, "currency": "EUR"}


UPCASTERS = {("Paid", 1): _renames, ("Paid", 2): _adds}


def test_upcasters_are_chained_from_the_stored_version_on() -> None:
    newest = {"cents": 700, "currency": "EUR"}

    assert upcast("Paid", 1, {"amount": 7}, to_version=3, upcasters=UPCASTERS) == newest
    assert upcast("Paid", 2, {"cents": 700}, to_version=3, upcasters=UPCASTERS) == newest
    assert upcast("Paid", 3, newest, to_version=3, upcasters=UPCASTERS) == newest


def test_upcasting_leaves_the_stored_data_alone() -> None:
    stored = {"amount": 7}

    first = upcast("Paid", 1, stored, to_version=3, upcasters=UPCASTERS)
    second = upcast("Paid", 1, stored, to_version=3, upcasters=UPCASTERS)

    assert first == second
    assert stored == {"amount": 7}


def test_a_gap_between_versions_is_an_unknown_event() -> None:
    with pytest.raises(UnknownEventError) as caught:
        upcast("Paid", 1, {"amount": 7}, to_version=3, upcasters={("Paid", 2): _adds})

    assert caught.value.schema_version == 1


def test_data_that_an_upcaster_cannot_read_is_a_value_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A torn old event must look corrupt, not crash its reader."""

    def fails(_name: str, _version: int, data: Mapping[str, Any]) -> Mapping[str, Any]:
        return _renames(data)

    monkeypatch.setattr("eventsaga.wire.codec.upcast", fails)

    with pytest.raises(ValueError, match="version 1"):
        decode("StepStarted", 1, AT, "{}")
