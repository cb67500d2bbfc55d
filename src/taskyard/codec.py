"""Codecs that users supply, for types that taskyard does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from taskyard.errors import PolicyError

__all__ = ["Codec", "checked_codecs"]

_LONGEST_NAME = 50
_METHODS = ("encode", "decode", "encode_result", "decode_result")


class Codec(Protocol):
    """Turns calls and results into bytes and back, instead of taskyard.

    What its methods raise is told as a `PayloadError`. They are called from several threads.
    """

    @property
    def name(self) -> str:
        """What travels with the bytes, so that nobody reads them by another codec."""
        ...

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any], /) -> bytes:
        """Encode the arguments of a call; of a batch task, one item as the only argument."""
        ...

    def decode(self, data: bytes, /) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Decode the arguments of a call; the bytes may come from anywhere."""
        ...

    def encode_result(self, value: Any, /) -> bytes:
        """Encode what a handler returned; None never comes here."""
        ...

    def decode_result(self, data: bytes, /) -> Any:
        """Decode a result."""
        ...


def checked_codecs(value: object) -> tuple[Codec, ...]:
    """Check what was given as `codec`.

    Arguments:
        value: a codec, or several; None: none.

    Raises:
        PolicyError: one is no codec, or two have the same name.
    """
    if value is None:
        return ()
    given: tuple[Any, ...] = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for codec in given:
        missing = [name for name in _METHODS if not callable(getattr(codec, name, None))]
        if missing or isinstance(codec, type):
            lack = f"it has no {', '.join(missing)}" if missing else "it is a class, not an object"
            raise PolicyError(f"{codec!r} is no codec: {lack}")
        name = getattr(codec, "name", None)
        good = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable()
        if not good:
            raise PolicyError(
                f"the name of a codec must be 1 to {_LONGEST_NAME} printable characters, "
                f"not {name!r}"
            )
    if len({codec.name for codec in given}) < len(given):
        raise PolicyError("two codecs have the same name, so their payloads cannot be told apart")
    return given
