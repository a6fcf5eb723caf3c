"""What can nobody read who has only the tables? What a codec has sealed on its way there.

Sealed are the values of contexts and results, items, payloads of signals and messages of
errors; names of fields, steps and sagas stay in the clear, so that every fold, every view and
the chain of hashes work without a key. The chain covers what is stored, sealed as it is.

A codec is a process's: everything that it stores goes through it. Without one, or where its
key is gone, what is sealed stays so: it can be looked at as it is, and no worker goes on with it.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, Protocol, cast
from uuid import UUID

from eventsaga.errors import SealedError, SettingsError

MARK: Final = "$sealed"
_TEXT: Final = f"{MARK}:"

_OF_VALUES: Final = frozenset({"context", "result", "payload"})
_OF_ITEMS: Final = frozenset({"items"})
_OF_TEXT: Final = frozenset({"message"})


class PayloadCodec(Protocol):
    """Seals what is stored, and opens it. `eventsaga.crypto.AesGcmCodec` is one."""

    def subject(self, context: Mapping[str, Any]) -> str | None:
        """Return whose data a saga with *context* holds; None for nobody in particular."""
        ...

    def seal(self, data: bytes, about: bytes, subject: str | None) -> str:
        """Return *data* as a text that only `open` understands, with the same *about*."""
        ...

    def open(self, token: str, about: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            SealedError: If its key is not there (any more), or it was changed.
        """
        ...


class _Installed:
    codec: PayloadCodec | None = None


@lru_cache
def load(reference: str) -> PayloadCodec | None:
    """Return the codec that *reference*, ``module:name``, stands for; None for "".

    Raises:
        SettingsError: If there is none.
    """
    if not reference:
        return None
    module, _, name = reference.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"EVENTSAGA_CODEC={reference!r} cannot be had: {error}") from error
    codec = found() if callable(found) else found
    if not all(callable(getattr(codec, verb, None)) for verb in ("subject", "seal", "open")):
        raise SettingsError(f"EVENTSAGA_CODEC={reference!r} is no payload codec")
    return cast("PayloadCodec", codec)


def install(codec: PayloadCodec | None) -> None:
    """Let everything that this process stores go through *codec*; None changes nothing.

    Raises:
        SettingsError: If there is another one: what it has sealed could not be opened.
    """
    if codec is None:
        return
    if _Installed.codec not in {None, codec}:
        raise SettingsError("a process has one payload codec, and there is another one already")
    _Installed.codec = codec


def is_installed() -> bool:
    """Whether payloads of this process are secret."""
    return _Installed.codec is not None


def uninstall() -> None:
    """Store everything as it is, from here on."""
    _Installed.codec = None


def subject_of(context: Mapping[str, Any]) -> str | None:
    """Return whose data a saga with *context* holds; None for nobody, or without a codec."""
    if _Installed.codec is None:
        return None
    subject: object = _Installed.codec.subject(context)
    # It is sealed itself where its key is gone.
    return subject if isinstance(subject, str) else None


def sealed(text: str, saga_id: UUID, subject: str | None = None) -> str:
    """Return JSON *text*, the data of an event, an error or a request, as it is stored."""
    codec = _Installed.codec
    if codec is None:
        return text
    return _written(_fields(json.loads(text), _sealer(codec, saga_id, subject)))


def sealed_context(text: str, saga_id: UUID, subject: str | None) -> str:
    """Return JSON *text*, a context, as it is stored."""
    codec = _Installed.codec
    if codec is None:
        return text
    seal = _sealer(codec, saga_id, subject)
    return _written({name: _sealed_value(value, seal) for name, value in json.loads(text).items()})


def opened(text: str, saga_id: UUID, *, strict: bool = False) -> str:
    """Return JSON *text* as it was before it was sealed.

    Args:
        text: As it is stored.
        saga_id: Whose it is.
        strict: Whether everything must be open in the end.

    Raises:
        SealedError: If *strict*, and something cannot be opened.
    """
    if MARK not in text:
        return text
    codec = _Installed.codec
    if codec is None:
        if strict:
            raise SealedError("its payloads are sealed, and this process has no codec")
        return text

    def unseal(token: str) -> Any:
        try:
            return json.loads(codec.open(token, saga_id.bytes))
        except SealedError:
            if strict:
                raise
            return None

    return _written(_unsealed(json.loads(text), unseal))


def is_sealed(value: object) -> bool:
    """Whether something in *value* is sealed still."""
    if isinstance(value, str):
        return value.startswith(_TEXT)
    if isinstance(value, Mapping):
        inner = cast("Mapping[str, Any]", value)
        return MARK in inner or any(map(is_sealed, inner.values()))
    return isinstance(value, list | tuple) and any(map(is_sealed, _items(value)))


def _items(value: Any) -> list[Any]:
    return list(value)


_Seal = Callable[[Any], str]


def _sealer(codec: PayloadCodec, saga_id: UUID, subject: str | None) -> _Seal:
    return lambda value: codec.seal(_written(value).encode(), saga_id.bytes, subject)


def _sealed_value(value: Any, seal: _Seal) -> Any:
    return value if value is None or _is_token(value) else {MARK: seal(value)}


def _is_token(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    mapping = cast("dict[str, Any]", value)
    return len(mapping) == 1 and isinstance(mapping.get(MARK), str)


def _fields(data: dict[str, Any], seal: _Seal) -> dict[str, Any]:
    """Return *data* with what is somebody's business sealed."""
    after = dict(data)
    for name, value in data.items():
        if name in _OF_VALUES and isinstance(value, dict):
            values = cast("dict[str, Any]", value)
            after[name] = {key: _sealed_value(inner, seal) for key, inner in values.items()}
        elif name in _OF_ITEMS and isinstance(value, list):
            after[name] = [_sealed_value(inner, seal) for inner in _items(value)]
        elif name in _OF_TEXT and isinstance(value, str) and value and not is_sealed(value):
            after[name] = f"{_TEXT}{seal(value)}"
    return after


def _unsealed(value: Any, unseal: Callable[[str], Any]) -> Any:
    """Return *value* with what can be opened open, one layer of it."""
    if isinstance(value, str):
        if not value.startswith(_TEXT):
            return value
        text = unseal(value.removeprefix(_TEXT))
        return value if text is None else text
    if isinstance(value, dict):
        mapping = cast("dict[str, Any]", value)
        if _is_token(mapping):
            inner = unseal(mapping[MARK])
            return mapping if inner is None else inner
        return {name: _unsealed(inner, unseal) for name, inner in mapping.items()}
    if isinstance(value, list):
        return [_unsealed(inner, unseal) for inner in _items(value)]
    return value


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
