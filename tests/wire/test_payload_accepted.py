"""What may be stored? Whatever pydantic writes as JSON, always as the same text."""

import json
import os
import subprocess
import sys
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from pydantic import BaseModel, ConfigDict, Field, computed_field

from eventsaga.wire.payload import (
    MAX_DEPTH,
    dump,
    dump_canonical,
    load,
    to_json_object,
    to_model,
)
from tests.wire.strategies import JSON_OBJECTS
from tests.wire.test_payload_refused import nested


class Colour(Enum):
    RED = "red"


class Size(StrEnum):
    LARGE = "L"


class Rank(IntEnum):
    FIRST = 1


class Money(BaseModel):
    amount: Decimal
    currency: str = "EUR"


@dataclass
class Place:
    city: str
    price: Money


class Point(NamedTuple):
    x: int
    y: int


class Order(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    order_id: str = Field(alias="orderId")
    total: Money
    due: date | None = None
    tags: set[str] = set()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def label(self) -> str:
        return f"order {self.order_id}"


FORMS: Final[tuple[tuple[Any, Any], ...]] = (
    (None, None),
    (2**4096 - 1, 2**4096 - 1),
    (1e300, 1e300),
    ("Grüße 🚀", "Grüße 🚀"),
    (Decimal("12.50"), "12.50"),
    (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
    (date(2026, 1, 2), "2026-01-02"),
    (timedelta(seconds=90), "PT1M30S"),
    (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (Colour.RED, "red"),
    (Size.LARGE, "L"),
    (Rank.FIRST, 1),
    (Money(amount=Decimal("1.0")), {"amount": "1.0", "currency": "EUR"}),
    (
        Place("Ulm", Money(amount=Decimal(2))),
        {"city": "Ulm", "price": {"amount": "2", "currency": "EUR"}},
    ),
    ((1, [2]), [1, [2]]),
    (Point(1, 2), [1, 2]),
    (deque([1, 2]), [1, 2]),
    ({"b", "a", "c"}, ["a", "b", "c"]),
    (frozenset({3, 1, 2}), [1, 2, 3]),
    (b"text", "text"),
    (MappingProxyType({"a": 1}), {"a": 1}),
    (OrderedDict[str, int]({"b": 1, "a": 2}), {"b": 1, "a": 2}),
)


@pytest.mark.parametrize(("value", "plain"), FORMS, ids=[type(form[0]).__name__ for form in FORMS])
def test_values_that_have_a_json_form_are_stored_in_it(value: Any, plain: Any) -> None:
    stored = to_json_object({"value": value})["value"]

    assert stored == plain
    assert type(stored) in (type(None), bool, int, float, str, list, dict)


def test_sixty_four_levels_are_taken() -> None:
    assert to_json_object(nested(MAX_DEPTH)) == nested(MAX_DEPTH)


def test_a_model_is_stored_under_its_field_names() -> None:
    order = Order(orderId="o-1", total=Money(amount=Decimal(3)), due=date(2026, 5, 1))

    assert to_json_object(order) == {
        "order_id": "o-1",
        "total": {"amount": "3", "currency": "EUR"},
        "due": "2026-05-01",
        "tags": [],
        "label": "order o-1",
    }


@pytest.mark.parametrize("name", ["order_id", "orderId"])
def test_a_model_is_read_by_name_and_by_alias(name: str) -> None:
    order = to_model(Order, json.dumps({name: "o-1", "total": {"amount": "3"}}))

    assert order.order_id == "o-1"
    assert to_model(Order, dump(to_json_object(order))) == order


def test_the_given_value_is_left_alone() -> None:
    inner = {"count": 1}
    given_value = {"items": [inner], "size": Size.LARGE}

    plain = to_json_object(given_value)
    plain["items"][0]["count"] = 2

    assert given_value == {"items": [{"count": 1}], "size": Size.LARGE}


@given(JSON_OBJECTS)
def test_plain_data_is_stored_unchanged_and_read_back_equal(value: dict[str, Any]) -> None:
    plain = to_json_object(value)

    assert plain == value
    assert load(dump(plain)) == value
    assert to_json_object(plain) == plain


@given(JSON_OBJECTS)
def test_the_canonical_text_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))

    assert dump_canonical(turned) == dump_canonical(value)


def test_a_set_gives_the_same_text_in_every_process() -> None:
    """The digest behind a start key is taken of it: the same input must not seem another."""
    program = (
        "from pydantic import BaseModel\n"
        "from eventsaga.wire.payload import dump_canonical, to_json_object\n"
        "class Order(BaseModel):\n"
        "    tags: set[str]\n"
        "print(dump_canonical(to_json_object(Order(tags=set('abcdefgh')))))\n"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert texts == {'{"tags":["a","b","c","d","e","f","g","h"]}\n'}
