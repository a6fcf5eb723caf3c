"""What may not be stored? Each refusal is typed, names the place, and comes before any write."""

import itertools
import math
import re
from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, field_serializer

from eventsaga.errors import PayloadError
from eventsaga.wire.payload import MAX_BYTES, MAX_DEPTH, check_size, to_json_object, to_model

DEEPEST = MAX_DEPTH * ".a"


class Holder(BaseModel):
    value: Any = None
    weight: float = 0.0
    pin: SecretStr | None = None


class Irregular(Enum):
    NOT_A_NUMBER = math.nan


@dataclass
class Parcel:
    content: Any


class Moody:
    """Raises whatever it is asked for."""

    def __repr__(self) -> str:
        raise RuntimeError("not today")

    __str__ = __repr__


class MoodyKey(str):
    __slots__ = ()

    def __repr__(self) -> str:
        raise RuntimeError("not today")


class MoodyMapping(UserDict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("not today")


class MoodyModel(BaseModel):
    value: int = 1

    @field_serializer("value")
    def refuse(self, _value: int) -> int:
        raise RuntimeError("not today")


def nested(depth: int, *, key: str = "a") -> dict[str, Any]:
    """Return a dict in a dict, *depth* times."""
    outermost: dict[str, Any] = {}
    innermost = outermost
    for _ in range(depth):
        innermost[key] = {}
        innermost = innermost[key]
    return outermost


def circular() -> dict[str, Any]:
    circle: dict[str, Any] = {}
    circle["a"] = circle
    return circle


def circular_list() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "NaN": (lambda: {"a": [0.5, math.nan]}, "$.a[1]", "nan is not a JSON number"),
    "infinity": (lambda: {"a": {"b": -math.inf}}, "$.a.b", "-inf is not a JSON number"),
    "NaN behind an enum": (lambda: {"a": Irregular.NOT_A_NUMBER}, "$.a", "not a JSON number"),
    "NaN in a dataclass": (lambda: {"a": Parcel(math.nan)}, "$.a.content", "not a JSON number"),
    "NaN in a field": (lambda: Holder(weight=math.nan), "$.weight", "not a JSON number"),
    "NaN in a model": (lambda: Holder(value=[{"x": math.inf}]), "$.value[0].x", "not a JSON"),
    "NUL": (lambda: {"a": ["x\x00y"]}, "$.a[0]", "NUL character"),
    "NUL in a key": (lambda: {"a": {"x\x00y": 1}}, "$.a", "NUL character"),
    "NUL in a model": (lambda: Holder(value={"x": "\x00"}), "$.value.x", "NUL character"),
    "lone surrogate": (lambda: {"a": {"b": "\ud800"}}, "$.a.b", "lone surrogate"),
    "lone surrogate in a key": (lambda: {"a": {"\udfff": 1}}, "$.a", "lone surrogate"),
    "lone surrogate in a model": (lambda: Holder(value="\ud800"), "$.value", "lone surrogate"),
    "number as a key": (lambda: {"a": {1: "x"}}, "$.a", "key 1 is of type int"),
    "keys that JSON would merge": (
        lambda: {"a": {1: "x", "1": "y"}},
        "$.a",
        "key 1 is of type int",
    ),
    "True as a key": (lambda: {"a": {True: "x"}}, "$.a", "key True is of type bool"),
    "None as a key": (lambda: {None: "x"}, "$", "key None is of type NoneType"),
    "tuple as a key": (lambda: {"a": {(1, 2): "x"}}, "$.a", "key is of type tuple"),
    "number as a key in a model": (
        lambda: Holder(value={1: "x", "1": "y"}),
        "$.value",
        "key 1 is of type int",
    ),
    "number as a key in a dataclass": (
        lambda: {"a": Parcel({2: "x"})},
        "$.a.content",
        "key 2 is of type int",
    ),
    "huge number as a key": (lambda: {"a": {10**5000: 1}}, "$.a", "key is of type int"),
    "65 levels": (lambda: nested(65), "$" + DEEPEST + ".a", "deeper than 64 levels"),
    "ten thousand levels": (lambda: nested(10_000), "$" + DEEPEST + ".a", "deeper than 64"),
    "ten thousand levels in a model": (
        lambda: Holder(value=nested(10_000)),
        "$.value" + DEEPEST,
        "deeper than 64 levels",
    ),
    "circle": (circular, "$" + DEEPEST + ".a", "deeper than 64 levels"),
    "circle in a model": (lambda: Holder(value=circular()), "$.value" + DEEPEST, "deeper than"),
    "circular list": (lambda: {"a": circular_list()}, "$.a" + "[0]" * 64, "deeper than 64"),
    "number of 100,000 digits": (lambda: {"a": 10**100_000}, "$.a", "332,193 bits is too large"),
    "huge number in a model": (lambda: Holder(value=-(10**100_000)), "$.value", "too large"),
    "object": (lambda: {"a": [object()]}, "$.a[0]", "type object cannot be stored"),
    "object in a model": (lambda: Holder(value=[object()]), "$.value[0]", "type object cannot"),
    "function": (lambda: {"a": circular}, "$.a", "type function cannot be stored"),
    "class": (lambda: {"a": Holder}, "$.a", "cannot be stored"),
    "exception": (lambda: {"a": ValueError("x")}, "$.a", "type ValueError cannot be stored"),
    "generator": (lambda: {"a": (x for x in "ab")}, "$.a", "type generator cannot be stored"),
    "endless iterator": (lambda: {"a": itertools.count()}, "$.a", "type count cannot be stored"),
    "generator in a model": (lambda: Holder(value=iter([1])), "$.value", "cannot be stored"),
    "bytes that are not text": (lambda: {"a": b"\xff"}, "$.a", "type bytes cannot be stored"),
    "such bytes in a model": (lambda: Holder(value=[b"\xff"]), "$.value[0]", "type bytes cannot"),
    "object without a text": (lambda: {"a": Moody()}, "$.a", "type Moody cannot be stored"),
    "key without a text": (lambda: {"a": {Moody(): 1}}, "$.a", "key is of type Moody"),
    "value below a key without a text": (
        lambda: {MoodyKey("k"): "\x00"},
        "$.k",
        "NUL character",
    ),
    "mapping that cannot be read": (lambda: {"a": MoodyMapping()}, "$", "RuntimeError"),
    "model that cannot be read": (lambda: {"a": MoodyModel()}, "$.a", "MoodyModel cannot be"),
    "secret": (lambda: Holder(pin=SecretStr("1234")), "$.pin", "stored as asterisks"),
    "long string": (lambda: {"a": "x" * (MAX_BYTES + 1)}, "$.a", "1,000,001 characters exceeds"),
    "a megabyte in all": (lambda: {"a": ["x" * 600_000] * 2}, "$", "exceed the limit of 1,000,000"),
    "a megabyte of two-byte letters": (lambda: {"a": "ä" * 600_000}, "$", "exceed the limit"),
}


@pytest.mark.parametrize(("build", "path", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_stored_is_refused_by_its_path(
    build: Callable[[], Any], path: str, reason: str
) -> None:
    with pytest.raises(PayloadError) as caught:
        to_json_object(build())

    assert caught.value.path == path
    assert reason in caught.value.reason


def test_the_error_names_the_root_that_the_caller_gives() -> None:
    with pytest.raises(PayloadError) as caught:
        to_json_object({"a": [math.nan]}, what="$[17]")

    assert caught.value.path == "$[17].a[0]"


def test_a_path_is_short_and_printable_whatever_the_keys_are() -> None:
    """The message goes into an event and into logs."""
    with pytest.raises(PayloadError) as caught:
        to_json_object({"line\nbreak" + "x" * 1000: {"\x1b[31m": math.nan}})

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_a_refusal_does_not_repeat_the_value() -> None:
    with pytest.raises(PayloadError) as caught:
        to_json_object({"card": "4111 1111 1111 1111\x00"})

    assert not re.search(r"\d", str(caught.value))


def test_a_megabyte_is_still_taken_and_one_byte_more_is_not() -> None:
    frame = len('{"a":""}')
    assert check_size('{"a":"' + "x" * (MAX_BYTES - frame) + '"}', "$") == MAX_BYTES

    with pytest.raises(PayloadError, match="1,000,001 bytes"):
        check_size('{"a":"' + "x" * (MAX_BYTES - frame + 1) + '"}', "$")


# -- reading into a model -----------------------------------------------------------------


class Line(BaseModel):
    sku: str
    count: int = Field(gt=0)


class Order(BaseModel):
    total: Decimal
    lines: list[Line] = []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"total":"x"}', "$.total"),
        ("{}", "$.total"),
        ('{"total":1,"lines":[{"sku":"A","count":1},{"sku":"B","count":0}]}', "$.lines[1].count"),
        ('{"total":1e9999}', "$.total"),
        ("[]", "$"),
        ("{", "$"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_by_its_path(text: str, path: str) -> None:
    with pytest.raises(PayloadError) as caught:
        to_model(Order, text)

    assert caught.value.path == path


def test_several_misfits_are_counted() -> None:
    with pytest.raises(PayloadError, match=r"and 1 more"):
        to_model(Order, '{"total":"x","lines":1}')


def test_a_misfit_does_not_repeat_the_value() -> None:
    with pytest.raises(PayloadError) as caught:
        to_model(Order, '{"total":"secret-4711"}')

    assert "4711" not in str(caught.value)


def test_nothing_is_consumed_of_what_is_refused() -> None:
    """An iterator belongs to its owner, even if it turns up in a result."""

    def rows() -> Iterator[int]:
        yield 1

    iterator = rows()
    with pytest.raises(PayloadError):
        to_json_object({"rows": iterator})

    assert next(iterator) == 1
