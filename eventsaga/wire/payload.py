"""What may be stored? Users' values become plain JSON data here, or are refused.

PostgreSQL refuses NUL characters and lone surrogates, JSON has no NaN, and encoders differ
in what they do with keys that are not strings. All of this is found before anything is
written, and the error names the place. Also the only module that turns data into text.
"""

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final, TypeGuard, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json, to_jsonable_python

from eventsaga.errors import PayloadError

MAX_BYTES: Final = 1_000_000
WARN_BYTES: Final = 256_000
MAX_DEPTH: Final = 64
# Python refuses to print integers of more than 4,300 digits, by default.
_MAX_INT_BITS: Final = 4096
_MAX_SHOWN_BITS: Final = 128

Model = TypeVar("Model", bound=BaseModel)


def dump(value: Any) -> str:
    """Return the JSON text of *value*, which is plain JSON data already."""
    return to_json(value).decode()


def dump_canonical(value: Any) -> str:
    """Return a text that is the same for equal values, whatever their keys' order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def load(text: str) -> Any:
    """Return the data that JSON *text* stands for."""
    return from_json(text, allow_inf_nan=False)


def to_json_object(value: Mapping[str, Any] | BaseModel, *, what: str = "$") -> dict[str, Any]:
    """Return *value* as plain JSON data: dicts, lists, strings, numbers, booleans, None.

    Args:
        value: A mapping or a model. Leaves may be anything that pydantic can write as
            JSON, such as Decimal, datetime, UUID or nested models.
        what: Root of the path that an error names.

    Raises:
        PayloadError: If the value cannot be stored; nothing was written.
    """
    try:
        plain: dict[str, Any] = _plain(value, 0)
    except _Flaw as flaw:
        raise PayloadError(what + flaw.path, flaw.reason) from flaw.__cause__
    except Exception as error:
        # A mapping or a key of the user's own that raises whatever it likes.
        raise PayloadError(what, f"cannot be read: {type(error).__name__}") from error
    check_size(dump(plain), what)
    return plain


def to_model(model: type[Model], text: str, *, what: str = "$") -> Model:
    """Return the *model* that JSON *text* stands for; fields go by name or by alias.

    Raises:
        PayloadError: If the text does not fit the model; it does not repeat the value.
    """
    try:
        return model.model_validate_json(text, by_alias=True, by_name=True)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_input=False, include_context=False)
        path = what + "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
        )
        more = f" (and {len(others)} more)" if others else ""
        raise PayloadError(path, first["msg"] + more) from error
    except Exception as error:
        # A validator of the user's own that raises whatever it likes.
        raise PayloadError(what, f"its model raised {type(error).__name__}: {error}") from error


def check_size(text: str, what: str) -> int:
    """Return the size of JSON *text* in bytes.

    Raises:
        PayloadError: If it is larger than `MAX_BYTES`.
    """
    size = len(text) if text.isascii() else len(text.encode())
    if size > MAX_BYTES:
        raise PayloadError(what, f"{size:,} bytes of JSON exceed the limit of {MAX_BYTES:,}")
    return size


class _Flaw(Exception):  # noqa: N818 - never leaves this module
    """What is wrong; its path grows on the way out, so a value without flaw costs none."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = ""

    def within(self, part: str | int) -> "_Flaw":
        """Return this, found one level deeper."""
        step = f"[{part}]" if isinstance(part, int) else f".{str.__repr__(part)[1:-1]:.60}"
        self.path = step + self.path
        return self


def _plain(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise _Flaw(f"nested deeper than {MAX_DEPTH} levels")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _plain_text(value)
    if isinstance(value, int | float):
        return _plain_number(value)
    if _is_mapping(value):
        return _plain_mapping(value, depth)
    if isinstance(value, list | tuple):
        return _plain_items(cast("Sequence[Any]", value), depth)
    # Already plain data, so this level of nesting is not a new one.
    return _plain(_converted(value), depth)


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _plain_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        name = _plain_text(_text_key(key))
        try:
            plain[name] = _plain(item, depth + 1)
        except _Flaw as flaw:
            raise flaw.within(name) from flaw.__cause__
    return plain


def _plain_items(value: Sequence[Any], depth: int) -> list[Any]:
    plain: list[Any] = []
    for number, item in enumerate(value):
        try:
            plain.append(_plain(item, depth + 1))
        except _Flaw as flaw:
            raise flaw.within(number) from flaw.__cause__
    return plain


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_iterator(value: object) -> bool:
    return isinstance(value, Iterator)


def _text_key(key: object) -> str:
    if isinstance(key, str):
        return key
    shown = f"{key!r:.40} " if isinstance(key, bool | float | UUID | None) else ""
    if isinstance(key, int) and key.bit_length() < _MAX_SHOWN_BITS:
        shown = f"{key!r} "
    raise _Flaw(f"key {shown}is of type {type(key).__name__}, not a string")


def _plain_text(value: str) -> str:
    # A subclass, such as a member of a StrEnum, is stored as the text that it is.
    text = value if type(value) is str else str.__str__(value)
    if len(text) > MAX_BYTES:
        raise _Flaw(f"a string of {len(text):,} characters exceeds the limit")
    if "\x00" in text:
        raise _Flaw("contains a NUL character, which PostgreSQL cannot store")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Flaw("contains a lone surrogate, which is not text") from None
    return text


def _plain_number(value: float) -> int | float:
    if isinstance(value, int):
        if value.bit_length() > _MAX_INT_BITS:
            raise _Flaw(f"an integer of {value.bit_length():,} bits is too large")
        return int(value)
    if not math.isfinite(value):
        raise _Flaw(f"{float(value)!r} is not a JSON number")
    return float(value)


# -- what is not JSON by itself -----------------------------------------------------------


def _converted(value: Any) -> Any:
    """Return *value* as JSON data, as pydantic writes it."""
    if _is_iterator(value):
        raise _of_no_kind(value)  # it may never end
    try:
        if isinstance(value, BaseModel):
            plain = value.model_dump(mode="json", by_alias=False, warnings=False)
        else:
            plain = to_jsonable_python(value, by_alias=False, inf_nan_mode="constants")
    except (ValueError, RecursionError) as error:
        raise _blamed(value, 0) from error
    return _faithful(value, plain)


def _faithful(value: Any, plain: Any) -> Any:
    """Return *plain*, which pydantic made of *value*, unless something was lost on the way.

    NaN became null, 1 the same key as "1", and a secret asterisks. The elements of a set
    are put in order: equal inputs must give equal texts in every process.
    """
    if value is plain or plain is True or plain is False:
        return plain
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, float):
        return value  # judged later, as the number that it was
    if isinstance(plain, dict):
        return _faithful_members(value, cast("dict[str, Any]", plain))
    if _is_list(plain):
        return _faithful_items(value, plain)
    secret = getattr(value, "get_secret_value", None)
    if secret is not None and secret() != plain:
        raise _Flaw(f"{type(value).__name__} would be stored as asterisks")
    return plain


def _faithful_members(value: Any, plain: dict[str, Any]) -> dict[str, Any]:
    parts = dict(_parts(value))
    for name, item in plain.items():
        if name in parts:
            try:
                plain[name] = _faithful(parts[name], item)
            except _Flaw as flaw:
                raise flaw.within(name) from flaw.__cause__
    return plain


def _faithful_items(value: Any, plain: list[Any]) -> list[Any]:
    if _is_iterator(value):
        raise _of_no_kind(value)
    if isinstance(value, AbstractSet):
        return sorted(plain, key=dump_canonical)
    parts = tuple(_parts(value))
    if len(parts) == len(plain):
        for number, native in parts:
            try:
                plain[number] = _faithful(native, plain[number])
            except _Flaw as flaw:
                raise flaw.within(number) from flaw.__cause__
    return plain


def _blamed(value: Any, depth: int) -> _Flaw:
    """Return the flaw of *value*, which pydantic refuses, with the path to its cause."""
    if depth > MAX_DEPTH:
        return _Flaw(f"nested deeper than {MAX_DEPTH} levels")
    for part, item in _parts(value):
        try:
            to_jsonable_python(item)
        except (ValueError, RecursionError):
            return _blamed(item, depth + 1).within(part)
    return _of_no_kind(value)


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return what *value* holds, by field, key or position; () if it is no container."""
    if isinstance(value, BaseModel):
        return value
    if _is_mapping(value):
        return [(_text_key(key), item) for key, item in value.items()]
    if isinstance(value, list | tuple | deque):
        return enumerate(cast("Iterable[Any]", value))
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    return ()


def _of_no_kind(value: object) -> _Flaw:
    return _Flaw(f"a value of type {type(value).__name__} cannot be stored as JSON")
