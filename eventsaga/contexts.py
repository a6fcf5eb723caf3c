"""Does a context fit its saga? What is started is checked before anything is written."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from eventsaga.errors import PayloadError
from eventsaga.saga import Saga
from eventsaga.wire.payload import dump, to_json_object, to_model


def checked_input(
    saga: Saga[Any], context: BaseModel | Mapping[str, Any], *, what: str = "$"
) -> dict[str, Any]:
    """Return *context* as the JSON data that is recorded.

    Args:
        saga: Its model decides what fits.
        context: The model, or a mapping that fits it.
        what: Root of the path that an error names.

    Raises:
        PayloadError: If it cannot be stored, or does not fit the model.
    """
    if isinstance(context, BaseModel) and not isinstance(context, saga.context):
        kind, wanted = type(context).__name__, saga.context.__name__
        raise PayloadError(what, f"saga {saga.name!r} takes {wanted}, not {kind}")
    plain = to_json_object(context, what=what)
    # Back and forth once: what is stored is what every later load will see.
    model = to_model(saga.context, dump(plain), what=what)
    return plain if isinstance(context, BaseModel) else to_json_object(model, what=what)


def to_context(saga: Saga[Any], recorded: Mapping[str, Any]) -> BaseModel:
    """Return the context that was *recorded* as the model of *saga*.

    Raises:
        PayloadError: If it does not fit the model, or `migrate_context` fails.
    """
    if saga.migrate_context is not None:
        try:
            recorded = saga.migrate_context(dict(recorded))
        except Exception as error:
            raise PayloadError("$", f"migrate_context failed: {error!r}") from error
    model: BaseModel = to_model(saga.context, dump(recorded))
    return model
