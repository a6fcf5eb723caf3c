"""How are payloads sealed? By AES-GCM, with keys that can be replaced, and thrown away.

Source: NIST SP 800-38D, as the package `cryptography` implements it. Each value has a nonce of
96 random bits of its own, and is bound to its saga: a token that is moved does not open.
"""

import base64
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from eventsaga.errors import SealedError, SettingsError

_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_OF_SUBJECT: Final = "@"
_BETWEEN: Final = "~"


class AesGcmCodec:
    """Seals payloads by AES-256-GCM.

    Args:
        keys: Keys of 32 bytes by id. Ids stand in what is sealed, in the clear; all keys with
            which anything was ever sealed must be here.
        current: Id of the key that seals from now on.
        subject: Takes a context and returns whose data it is, an opaque id that may be read by
            everybody; None for nobody in particular.
        subject_keys: Keys of subjects. One is made for each new subject; when it is deleted,
            nobody can read that subject's payloads any more, in no table, archive or backup.

    Raises:
        SettingsError: If a key cannot be used, or *subject* and *subject_keys* are not given
            together.
    """

    def __init__(
        self,
        keys: Mapping[str, bytes],
        current: str,
        *,
        subject: Callable[[Mapping[str, Any]], str | None] | None = None,
        subject_keys: MutableMapping[str, bytes] | None = None,
    ) -> None:
        for name, key in keys.items():
            if len(key) != _KEY_BYTES or not name.isalnum():
                raise SettingsError(f"key {name!r} must have a name of letters and 32 bytes")
        if current not in keys:
            raise SettingsError(f"there is no key {current!r} to seal with")
        if (subject is None) != (subject_keys is None):
            raise SettingsError("subject and subject_keys belong together")
        self._keys = dict(keys)
        self._current = current
        self._subject = subject
        self._subject_keys = subject_keys

    def subject(self, context: Mapping[str, Any]) -> str | None:
        """Return whose data *context* is."""
        return None if self._subject is None else self._subject(context)

    def seal(self, data: bytes, about: bytes, subject: str | None) -> str:
        """Return *data* as a token."""
        name = self._current if subject is None else f"{_OF_SUBJECT}{_text(subject.encode())}"
        key = self._keys[name] if subject is None else self._key_of(subject)
        nonce = os.urandom(_NONCE_BYTES)
        body = AESGCM(key).encrypt(nonce, data, about + name.encode())
        return f"{name}{_BETWEEN}{_text(nonce + body)}"

    def open(self, token: str, about: bytes) -> bytes:
        """Return what *token* was made of.

        Raises:
            SealedError: If its key is not there (any more), or it was changed.
        """
        name, _, text = token.partition(_BETWEEN)
        key = self._known(name)
        if key is None:
            raise SealedError(f"its key {name!r} is not there")
        try:
            body = _bytes(text)
            return AESGCM(key).decrypt(
                body[:_NONCE_BYTES], body[_NONCE_BYTES:], about + name.encode()
            )
        except (InvalidTag, ValueError):
            raise SealedError("what was sealed has been changed, or is another saga's") from None

    def _known(self, name: str) -> bytes | None:
        if not name.startswith(_OF_SUBJECT):
            return self._keys.get(name)
        try:
            subject = _bytes(name.removeprefix(_OF_SUBJECT)).decode()
        except ValueError:
            return None
        return None if self._subject_keys is None else self._subject_keys.get(subject)

    def _key_of(self, subject: str) -> bytes:
        assert self._subject_keys is not None
        key = self._subject_keys.get(subject)
        if key is None:
            # Another process may have been first: its key counts.
            key = self._subject_keys.setdefault(subject, os.urandom(_KEY_BYTES))
        return key


class DirectoryKeys(MutableMapping[str, bytes]):
    """Keys of subjects as files of one folder; a file that is deleted is a key thrown away.

    Args:
        folder: Where they are; for the workers' user only, and never in a backup of the
            database.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    def _file(self, subject: str) -> Path:
        return self._folder / hashlib.sha256(subject.encode()).hexdigest()

    def __getitem__(self, subject: str) -> bytes:
        try:
            return self._file(subject).read_bytes()
        except FileNotFoundError:
            raise KeyError(subject) from None

    def __setitem__(self, subject: str, key: bytes) -> None:
        self.setdefault(subject, key)

    def setdefault(self, subject: str, key: bytes = b"") -> bytes:
        """Keep *key*, unless there is one already, and return the one that is kept."""
        file = self._file(subject)
        unfinished = file.with_name(f".{file.name}.{os.urandom(8).hex()}")
        unfinished.write_bytes(key)
        unfinished.chmod(0o600)
        try:
            # Fails if the file is there: of two, one is first.
            os.link(unfinished, file)
        except FileExistsError:
            return self[subject]
        finally:
            unfinished.unlink()
        return key

    def __delitem__(self, subject: str) -> None:
        try:
            self._file(subject).unlink()
        except FileNotFoundError:
            raise KeyError(subject) from None

    def __iter__(self) -> Iterator[str]:
        raise TypeError("names of subjects are not kept")

    def __len__(self) -> int:
        return sum(1 for file in self._folder.iterdir() if not file.name.startswith("."))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
