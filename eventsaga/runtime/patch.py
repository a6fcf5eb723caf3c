"""What does a result change in the context? JSON data that fits the model, or a refusal."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from eventsaga.contexts import to_context
from eventsaga.core.conflict import is_same
from eventsaga.core.events import JsonObject
from eventsaga.errors import PayloadError, PermanentError
from eventsaga.saga import Saga
from eventsaga.wire.payload import check_size, dump, to_json_object


class ResultRefusedError(PermanentError):
    """The function returned, but what it returned cannot be recorded."""


def patch_of(saga: Saga[Any], before: Mapping[str, Any], result: object) -> JsonObject | None:
    """Return what *result* changes in the context *before*, as JSON data.

    Args:
        saga: Its model decides what fits.
        before: The context that the function was given.
        result: What it returned.

    Raises:
        ResultRefusedError: If it cannot be stored, or does not fit the model.
    """
    if result is None:
        return None
    try:
        patch = _changes(saga.context, before, result)
        if not patch:
            return None
        require_fit(saga, {**before, **patch})
    except PayloadError as error:
        raise ResultRefusedError(f"the result cannot be recorded: {error}") from error
    return patch


def require_fit(saga: Saga[Any], context: JsonObject) -> None:
    """Refuse a context that is too large, or does not fit the model.

    Raises:
        PayloadError: That says so.
    """
    check_size(dump(context), "$")
    to_context(saga, context)


def collected(result: object) -> JsonObject | None:
    """Return *result* of an item, which is collected and not merged, as JSON data.

    Raises:
        ResultRefusedError: If it cannot be stored.
    """
    if result is None:
        return None
    if not isinstance(result, Mapping | BaseModel):
        kind = type(result).__name__
        raise ResultRefusedError(f"a step returns a mapping, a model or None, not {kind}")
    try:
        return to_json_object(result)  # pyright: ignore[reportUnknownArgumentType]
    except PayloadError as error:
        raise ResultRefusedError(f"the result cannot be recorded: {error}") from error


def _changes(model: type[BaseModel], before: Mapping[str, Any], result: object) -> JsonObject:
    if isinstance(result, model):
        after = to_json_object(result)
        return {name: value for name, value in after.items() if _differs(before, name, value)}
    if not isinstance(result, Mapping):
        kind = type(result).__name__
        raise ResultRefusedError(f"a step returns a mapping, {model.__name__} or None, not {kind}")
    patch = to_json_object(result)  # pyright: ignore[reportUnknownArgumentType]
    if model.model_config.get("extra") != "allow":
        unknown = [name for name in patch if name not in model.model_fields]
        if unknown:
            # Pydantic would drop them without a word.
            names = ", ".join(unknown)
            raise ResultRefusedError(f"{model.__name__} has no field {names}")
    return patch


def _differs(before: Mapping[str, Any], name: str, value: object) -> bool:
    return name not in before or not is_same(before[name], value)
