"""Single values as bytes and back: what msgspec does, what it leaves to us, and why it failed."""

from __future__ import annotations

import inspect
import reprlib
import sys
from functools import lru_cache
from pathlib import PurePath
from typing import Any, get_origin

import msgspec

from taskyard.errors import PayloadError

__all__ = ["Unsendable", "Value", "brief", "decoder", "encode", "hooked", "reason", "shown"]

LONGEST_REASON = 300
LONGEST_REPR = 80


class Value:
    """How values of one type are decoded.

    Arguments:
        annotation: the type.
        what: what to call the value in errors.
    """

    __slots__ = ("_decode", "what")

    def __init__(self, annotation: Any, what: str) -> None:
        self._decode = decoder(annotation).decode
        self.what = what

    def decode(self, data: bytes | msgspec.Raw) -> Any:
        """Decode a value.

        Arguments:
            data: the value as bytes.

        Returns:
            The value.

        Raises:
            PayloadError: the bytes are broken, or do not fit the type.
        """
        try:
            return self._decode(data)
        except Exception as error:  # a user's class may raise what it likes when it is made
            raise PayloadError(f"{self.what}: {reason(error)}") from error

    def check(self, given: Any) -> None:
        """Find out whether a value can be encoded, and decodes as its type demands.

        Arguments:
            given: the value.

        Raises:
            PayloadError: no; says what was expected and what was given.
        """
        try:
            data = encode(given)
        except Exception as error:  # the same
            text = f"{self.what}: {reason(error)}; given {brief(given)}"
            raise PayloadError(text) from error
        try:
            self.decode(data)
        except PayloadError as error:
            raise PayloadError(f"{error}; given {brief(given)}") from error.__cause__


def decoder(annotation: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder for a type.

    Raises:
        TypeError: msgspec cannot decode the type.
    """
    return msgspec.msgpack.Decoder(annotation, dec_hook=_from_plain)


def hooked(kind: Any) -> bool:
    """Whether instances of a class that msgspec does not know can be sent all the same."""
    if kind is object:
        return True
    return isinstance(kind, type) and (issubclass(kind, PurePath) or _is_model(kind))


def reason(error: Exception) -> str:
    """What went wrong while encoding or decoding, in at most some 300 characters."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or contains itself"
    if isinstance(error, OverflowError) and "serialize" in str(error):
        return "a whole number beyond 64 bits cannot be sent (send it as a text, or as Decimal)"
    if isinstance(error, (UnicodeEncodeError, UnicodeDecodeError)):
        return f"a text is not valid Unicode: {error.reason}"
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - a user's __str__ may raise
        text = f"(its text could not be made: {type(broken).__name__})"
    if not isinstance(error, (msgspec.MsgspecError, PayloadError, Unsendable)):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 3]}..."


def brief(given: Any) -> str:
    """A value for an error: never long, however large the value is."""
    try:
        text = _repr.repr(given)
    except Exception:  # noqa: BLE001 - for one, a number of too many digits has no repr
        text = f"an object of {shown(type(given))}"
    return text if len(text) <= LONGEST_REPR else f"{text[: LONGEST_REPR - 3]}..."


def shown(annotation: Any) -> str:
    """A type for an error."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if annotation.__module__ in ("builtins", "__main__"):
            return f"`{annotation.__qualname__}`"
        return f"`{annotation.__module__}.{annotation.__qualname__}`"
    return f"`{annotation}`"


class Unsendable(TypeError):
    """An object of a class that cannot be encoded."""


def _to_plain(value: Any) -> Any:
    """Turn a value that msgspec does not know into one that it does."""
    if isinstance(value, PurePath):
        return str(value)
    kind: Any = type(value)
    if _is_model(kind):
        return value.model_dump(mode="python", round_trip=True, by_alias=not _takes_names(kind))
    for base, plain in _PLAIN:
        if isinstance(value, base):
            return plain(value)
    if kind.__name__.endswith("Url") and kind.__module__.startswith("pydantic"):
        return str(value)
    raise Unsendable(f"objects of {shown(kind)} cannot be sent")


# msgspec refuses classes derived from these. Called on the base, so that no override interferes.
_PLAIN: tuple[tuple[type, Any], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, bytes.__bytes__),
)


def _from_plain(annotation: Any, value: Any) -> Any:
    """Turn plain data into an instance of a type that msgspec does not know.

    The type is from an annotation, never from the data.
    """
    if annotation is object:
        return value
    if issubclass(get_origin(annotation) or annotation, PurePath):
        if not isinstance(value, str):
            raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
        return annotation(value)
    try:
        if _takes_names(annotation):
            return annotation.model_validate(value, by_alias=True, by_name=True)
        return annotation.model_validate(value)
    except sys.modules["pydantic"].ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        texts = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in problems[:5]]
        raise ValueError("; ".join(texts).removeprefix(": ")) from None


def _is_model(kind: Any) -> bool:
    # Whoever made a model has imported pydantic; whoever has not pays nothing for it.
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None
        and hasattr(kind, "model_validate")
        and issubclass(kind, pydantic.BaseModel)
    )


@lru_cache(maxsize=256)
def _takes_names(model: Any) -> bool:
    # Since pydantic 2.11. Before, a model with aliases is read by alias only.
    return "by_name" in inspect.signature(model.model_validate).parameters


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = LONGEST_REPR
encode = msgspec.msgpack.Encoder(enc_hook=_to_plain).encode
