"""Encrypting payloads: AES-256-GCM of `cryptography`, with keys that can be rotated.

What is made of a plaintext: a byte that says whether it belongs to one message, the length of the
key's name, the name, 16 bytes of salt, 12 of nonce, and the ciphertext with its tag. What it
belongs to (the task and the message's id) and the bytes before the salt are authenticated with it.

A key never encrypts itself: a cipher's key is derived of it and the salt (HKDF-SHA256). Each
process draws a salt, and another one after some million messages, so random nonces never come near
the 2^32 that one key of AES-GCM is good for. (Fernet of the same library knows nothing that could
be authenticated with a payload, and makes it a third longer.)
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from taskyard.errors import CannotOpen, MissingExtra, PayloadError, PolicyError

__all__ = ["Keys", "Place", "checked_keys", "key_name", "no_keys"]

Place = tuple[str, ...]
"""What a payload belongs to; the last item is the message's id, "" for any message."""

KEY_BYTES = 32
_SALT_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16
_LONGEST_NAME = 50
_MESSAGES_PER_SALT = 1 << 24
_CIPHERS = 1024
"""Derived ones that a key remembers: about as many as there are processes that encrypt."""

_ANY_MESSAGE = 0
_ONE_MESSAGE = 1


class Keys:
    """The keys that payloads are encrypted with: the first one encrypts, all of them decrypt.

    Arguments:
        keys: name -> key, as 32 bytes or the base64 text of them (`Keys.new()` makes one). The
            name travels with each message, readable by all.

    Raises:
        PolicyError: there is none, or one is no key.
        MissingExtra: the package `cryptography` is not installed.
    """

    def __init__(self, keys: Mapping[str, bytes | str]) -> None:
        given: object = keys
        if not isinstance(given, Mapping) or not given:
            raise PolicyError("keys are a mapping of names to keys, and at least one")
        _need_library()
        self._keys = {
            _checked_name(name): _Key(_key_bytes(number, key))
            for number, (name, key) in enumerate(keys.items(), start=1)
        }
        self._first = next(iter(self._keys))

    @classmethod
    def parse(cls, text: str) -> Keys:
        """Make them of a text: `name:key` each, the key in base64, separated by blanks or commas.

        Raises:
            PolicyError: it is none; does not repeat the text.
        """
        found: dict[str, bytes | str] = {}
        for number, part in enumerate(text.replace(",", " ").split(), start=1):
            name, colon, key = part.partition(":")
            if not colon:
                raise PolicyError(f"key {number} of the text is not of the form name:key")
            if name in found:
                raise PolicyError(f"key {number} of the text has the name of one before it")
            found[name] = key
        if not found:
            raise PolicyError("there is no key in the text; it should be name:key, in base64")
        return cls(found)

    @classmethod
    def from_env(cls, variable: str = "TASKYARD_KEYS") -> Keys:
        """Make them of an environment variable; see `parse`.

        Raises:
            PolicyError: it is not set, or there are no keys in it.
        """
        text = os.environ.get(variable)
        if text is None:
            raise PolicyError(f"the environment variable {variable} with the keys is not set")
        try:
            return cls.parse(text)
        except PolicyError as error:
            raise PolicyError(f"environment variable {variable}: {error}") from None

    @staticmethod
    def new() -> str:
        """A new random key, in base64."""
        return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, the one that encrypts first."""
        return tuple(self._keys)

    def encrypt(self, data: bytes, place: Place) -> bytes:
        """Encrypt bytes with the first key.

        Bytes for any message are encrypted the same each time: a schedule must be the same
        wherever, and whenever, it is declared.

        Arguments:
            data: the bytes.
            place: what they belong to, and can only be decrypted for.
        """
        key = self._keys[self._first]
        name = self._first.encode()
        head = bytes((_ONE_MESSAGE if place[-1] else _ANY_MESSAGE, len(name))) + name
        known = head + _encode(place)
        if place[-1]:
            salt, nonce = key.salt(), os.urandom(_NONCE_BYTES)
        else:
            salt, nonce = key.synthetic(known, data)
        sealed: bytes = key.cipher(salt).encrypt(nonce, data, known)
        return head + salt + nonce + sealed

    def decrypt(self, data: bytes, place: Place) -> bytes:
        """Decrypt what `encrypt` made.

        Arguments:
            data: from anywhere.
            place: what the bytes belong to.

        Raises:
            PayloadError: they are broken, or belong to something else.
            CannotOpen: they are encrypted with another key.
        """
        name = key_name(data)
        key = self._keys.get(name)
        if key is None:
            raise _no_key(name)
        length = 2 + data[1]
        if data[0] == _ANY_MESSAGE:
            place = (*place[:-1], "")
        head, rest = data[:length], data[length:]
        salt, nonce = rest[:_SALT_BYTES], rest[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES]
        try:
            found: bytes = key.cipher(salt).decrypt(
                nonce, rest[_SALT_BYTES + _NONCE_BYTES :], head + _encode(place)
            )
        except Exception as error:
            raise PayloadError(
                f"it cannot be decrypted with the key {name!r}: it was changed, or belongs to "
                f"another message or task, or another key has this name here"
            ) from error
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __repr__(self) -> str:
        return f"<Keys {', '.join(map(repr, self._keys))}>"

    def __reduce__(self) -> Any:
        raise TypeError("keys are not pickled: they would end up where nobody looks for them")


def checked_keys(value: object) -> Keys | None:
    """Check what was given as `encryption`.

    Arguments:
        value: keys, "env:" and the name of an environment variable, or None.

    Raises:
        PolicyError: it is something else, or there are no keys in the variable.
    """
    if value is None or isinstance(value, Keys):
        return value
    if isinstance(value, str) and value.startswith("env:"):
        return Keys.from_env(value.removeprefix("env:"))
    # Not repeated here: it may be a key.
    raise PolicyError("encryption must be Keys(...), 'env:NAME_OF_A_VARIABLE' or None")


def key_name(data: bytes) -> str:
    """The name of the key that something was encrypted with.

    Raises:
        PayloadError: it is too short, or of a kind that this version does not know.
    """
    length = 2 + (data[1] if len(data) > 1 else 0)
    if len(data) < length + _SALT_BYTES + _NONCE_BYTES + _TAG_BYTES:
        raise PayloadError("it is no encrypted payload: it is too short")
    if data[0] not in (_ANY_MESSAGE, _ONE_MESSAGE):
        raise PayloadError("it is encrypted in a way that this version of taskyard does not know")
    try:
        return data[2:length].decode()
    except UnicodeDecodeError as error:
        raise PayloadError("it is no encrypted payload: the name of its key is no text") from error


def no_keys(data: bytes) -> PayloadError:
    """What to raise where there are no keys at all."""
    return _no_key(key_name(data))


def _no_key(name: str) -> CannotOpen:
    return CannotOpen(
        f"it is encrypted with the key {name!r}, which this process does not have: add it to "
        f"encryption= of the yard"
    )


class _Key:
    """A key, and what is derived of it."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._salt = b""
        self._left = 0
        self._mac = self._derive(b"", b"taskyard synthetic nonce")
        self.cipher: Callable[[bytes], Any] = functools.lru_cache(_CIPHERS)(self._cipher)

    def salt(self) -> bytes:
        """The salt of this process. After a fork two have it, which their random nonces allow."""
        if self._left <= 0:
            self._salt, self._left = os.urandom(_SALT_BYTES), _MESSAGES_PER_SALT
        self._left -= 1  # threads may miss one of another: this is no exact bound
        return self._salt

    def synthetic(self, known: bytes, data: bytes) -> tuple[bytes, bytes]:
        """A salt and nonce that are the same for the same bytes, and others for others."""
        text = len(known).to_bytes(4, "big") + known + data
        made = hmac.digest(self._mac, text, hashlib.sha256)
        return made[:_SALT_BYTES], made[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES]

    def _cipher(self, salt: bytes) -> Any:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self._derive(salt, b"taskyard payload"))

    def _derive(self, salt: bytes, purpose: bytes) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), KEY_BYTES, salt, purpose).derive(self._key)

    def __repr__(self) -> str:
        return "<key>"


def _need_library() -> None:
    try:
        import cryptography  # noqa: F401 - whether it is there
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "encryption needs the package cryptography: pip install 'taskyard[encryption]'"
        ) from error


def _checked_name(name: object) -> str:
    good = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable()
    if not good or set(str(name)) & set(":, "):
        raise PolicyError(
            f"the name of a key must be 1 to {_LONGEST_NAME} printable characters without blanks, "
            f"commas and colons"
        )
    return str(name)


def _key_bytes(number: int, key: object) -> bytes:
    # It is named by its number: who mixes them up gives the key as the name.
    if isinstance(key, str):
        try:
            key = base64.b64decode(key.replace("-", "+").replace("_", "/"), validate=True)
        except (binascii.Error, ValueError):
            raise PolicyError(f"key {number} is no base64") from None
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise PolicyError(
            f"key {number} must be {KEY_BYTES} bytes, or the base64 text of them: "
            f"Keys.new() makes one"
        )
    return key


_encode = msgspec.msgpack.Encoder().encode
