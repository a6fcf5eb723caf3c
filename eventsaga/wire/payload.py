"""What may be stored? Users' values become plain JSON data here, or are refused.

PostgreSQL refuses NUL characters and lone surrogates, JSON has no NaN, and encoders differ
in what they do with keys that are not strings. All of this is found before anything is
written, and the error names the place. Also the only module that turns data into text.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeGuard, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json, to_jsonable_python

from eventsaga.errors import PayloadError

MAX_BYTES: Final = 1_000_000
WARN_BYTES: Final = 256_000
MAX_DEPTH: Final = 64
# Python refuses to print integers of more than 4,300 digits, by default.
_MAX_INT_BITS: Final = 4096

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
    data = _model_data(value, what) if isinstance(value, BaseModel) else value
    plain: dict[str, Any] = _plain(data, what, 0)
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


def check_size(text: str, what: str) -> int:
    """Return the size of JSON *text* in bytes.

    Raises:
        PayloadError: If it is larger than `MAX_BYTES`.
    """
    size = len(text) if text.isascii() else len(text.encode())
    if size > MAX_BYTES:
        raise PayloadError(what, f"{size:,} bytes of JSON exceed the limit of {MAX_BYTES:,}")
    return size


def _plain(value: Any, path: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise PayloadError(path, f"nested deeper than {MAX_DEPTH} levels")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _plain_text(value, path)
    if isinstance(value, int | float):
        return _plain_number(value, path)
    if _is_mapping(value):
        return _plain_mapping(value, path, depth)
    if isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        return [_plain(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(items)]
    return _plain(_converted(value, path), path, depth + 1)


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _plain_mapping(value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise _key_refused(key, path)
        plain[_plain_text(key, path)] = _plain(
            item, f"{path}.{_brief(key, quote=False)}", depth + 1
        )
    return plain


def _plain_text(value: str, path: str) -> str:
    if len(value) > MAX_BYTES:
        raise PayloadError(path, f"a string of {len(value):,} characters exceeds the limit")
    if "\x00" in value:
        raise PayloadError(path, "contains a NUL character, which PostgreSQL cannot store")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise PayloadError(path, "contains a lone surrogate, which is not text") from None
    # A subclass, such as a member of a StrEnum, is stored as the text that it is.
    return value if type(value) is str else str.__str__(value)


def _plain_number(value: float, path: str) -> int | float:
    if isinstance(value, int):
        if value.bit_length() > _MAX_INT_BITS:
            raise PayloadError(path, f"an integer of {value.bit_length():,} bits is too large")
        return int(value)
    if not math.isfinite(value):
        raise PayloadError(path, f"{value!r} is not a JSON number")
    return float(value)


def _converted(value: Any, path: str) -> Any:
    """Return *value* one step nearer to JSON."""
    if isinstance(value, BaseModel):
        return _model_data(value, path)
    try:
        return to_jsonable_python(value, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        kind = type(value).__name__
        reason = f"a value of type {kind} cannot be stored as JSON"
        raise PayloadError(path, reason) from error


def _model_data(model: BaseModel, path: str) -> Any:
    try:
        _refuse_what_dumping_hides(model, path, 0)
        return model.model_dump(mode="json", by_alias=False, warnings=False)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        kind = type(model).__name__
        raise PayloadError(path, f"{kind} cannot be written as JSON: {error}") from error


def _refuse_what_dumping_hides(value: Any, path: str, depth: int) -> None:
    """Find what pydantic would quietly rewrite: NaN becomes null, and 1 the same key as "1"."""
    if depth > MAX_DEPTH:
        raise PayloadError(path, f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, float):
        _plain_number(value, path)
    for part, item in _parts(value, path):
        _refuse_what_dumping_hides(item, path + part, depth + 1)


def _parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield what *value* holds, each with its step of the path."""
    if isinstance(value, BaseModel):
        yield from ((f".{name}", item) for name, item in value)
    elif _is_mapping(value):
        for key, item in value.items():
            if not isinstance(key, str):
                raise _key_refused(key, path)
            yield f".{_brief(key, quote=False)}", item
    elif isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        yield from ((f"[{number}]", item) for number, item in enumerate(items))


def _key_refused(key: object, path: str) -> PayloadError:
    return PayloadError(path, f"key {_brief(key)} is of type {type(key).__name__}, not a string")


def _brief(key: object, *, quote: bool = True) -> str:
    """Return *key* short enough, and clean enough, to stand in an error message."""
    text = repr(key)[:60]
    return text if quote else text.strip("'\"")
