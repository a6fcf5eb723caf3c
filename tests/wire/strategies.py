"""Which events could there be? Any, drawn by the types of their fields."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints
from uuid import UUID

from hypothesis import strategies as st

from eventsaga.core.events import SagaEvent

EVENT_TYPES: Final[tuple[type[SagaEvent], ...]] = get_args(SagaEvent)

# Hypothesis takes the bounds without a zone and adds it.
INSTANTS: Final = st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.just(UTC),
)

# All that a checked payload can hold: no NUL, no lone surrogate.
TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))

_LEAVES: Final = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**4096) + 1, max_value=2**4096 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
JSON_VALUES: Final[st.SearchStrategy[Any]] = st.recursive(
    _LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=12
)
JSON_OBJECTS: Final = st.dictionaries(TEXTS, JSON_VALUES, max_size=6)

_BY_TYPE: Final[Mapping[Any, st.SearchStrategy[Any]]] = {
    Mapping[int, str]: st.dictionaries(st.integers(1, 1000), st.text("0123456789abcdef")),
    datetime: INSTANTS,
    str: TEXTS,
    int: st.integers(min_value=1, max_value=2**31 - 1),
    bool: st.booleans(),
    UUID: st.uuids(),
    NoneType: st.none(),
    Any: JSON_VALUES,
}


def _of_type(hint: Any) -> st.SearchStrategy[Any]:
    if hint in _BY_TYPE:
        return _BY_TYPE[hint]
    origin = get_origin(hint)
    if origin is UnionType:
        return st.one_of([_of_type(choice) for choice in get_args(hint)])
    if origin is tuple:
        return st.lists(_of_type(get_args(hint)[0]), max_size=4).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return JSON_OBJECTS
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    raise NotImplementedError(f"no strategy for {hint}")


def _events_of(cls: type[SagaEvent]) -> st.SearchStrategy[SagaEvent]:
    hints = get_type_hints(cls)
    return st.builds(cls, **{field.name: _of_type(hints[field.name]) for field in fields(cls)})


EVENTS: Final = st.one_of([_events_of(cls) for cls in EVENT_TYPES])
