"""Requests as texts and as bytes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from taskyard.annotations import carried
from taskyard.errors import PolicyError

__all__ = ["JsonTupleSerializer", "RequestCodec", "Serializer", "codec_for", "read_request"]


class Serializer(Protocol):
    """Turns requests into texts and back; a `Queue` may be given one."""

    def serialize(self, request: Any) -> str:
        """The text of a request."""
        ...

    def deserialize(self, cls: type[Any], source: str) -> Any:
        """The request of a text."""
        ...


class JsonTupleSerializer:
    """A request as the JSON array of its values, in the order of its constructor."""

    def get_values(self, request: Any) -> list[Any]:
        """The values of a request."""
        if isinstance(request, Sequence):
            return list(request)
        names = getattr(request, "__struct_fields__", None)
        if names is not None:
            return [getattr(request, name) for name in names]
        return list(vars(request).values())

    def serialize(self, request: Any) -> str:
        """The text of a request."""
        return json.dumps(msgspec.to_builtins(self.get_values(request), enc_hook=_plain))

    def deserialize(self, cls: type[Any], source: str) -> Any:
        """The request of a text."""
        values = json.loads(source)
        names = _field_names(cls)
        if names is not None:
            values = dict(zip(names, values, strict=False))
            if hasattr(cls, "model_validate"):
                return cls.model_validate(values)
        elif not hasattr(cls, "_fields"):
            return cls(*values)
        return msgspec.convert(values, cls)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else vars(value)


def _field_names(cls: type[Any]) -> Sequence[str] | None:
    """The fields of a class that says them by name."""
    if hasattr(cls, "model_fields"):
        return list(cls.model_fields)
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls) if field.init]
    names: Sequence[str] | None = getattr(cls, "__struct_fields__", None)
    return names


class RequestCodec:
    """Encodes requests by a serializer (see `taskyard.Codec`).

    Arguments:
        request: their class.
        serializer: makes texts of them.
    """

    name = "sharded-queue"

    def __init__(self, request: type[Any], serializer: Serializer) -> None:
        self._request = request
        self._serializer = serializer

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any], /) -> bytes:
        """Encode a request, the only argument."""
        del kwargs
        return self._serializer.serialize(args[0]).encode()

    def decode(self, data: bytes, /) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Decode a request."""
        return (read_request(self._serializer, self._request, data.decode()),), {}

    def encode_result(self, value: Any, /) -> bytes:
        """Encode a result; handlers have none."""
        return json.dumps(value).encode()

    def decode_result(self, data: bytes, /) -> Any:
        """Decode a result."""
        return json.loads(data)


def read_request(serializer: Serializer, request: type[Any], text: str) -> Any:
    """Make a request of a text, by a serializer of the document's version or a later one."""
    read = getattr(serializer, "deserialize", None) or getattr(serializer, "unserialize", None)
    if read is None:
        raise PolicyError(f"{serializer!r} is no serializer: it has no deserialize()")
    return read(request, text)


def codec_for(request: type[Any], serializer: Serializer | None) -> RequestCodec | None:
    """What encodes requests of a class; None: taskyard does, by their types.

    Arguments:
        request: the class.
        serializer: what was given to the queue; None: nothing.
    """
    if serializer is not None and type(serializer) is not JsonTupleSerializer:
        return RequestCodec(request, serializer)
    try:
        carried(request, "a request")
    except PolicyError:  # a class of one's own, with attributes and a constructor
        return RequestCodec(request, serializer or JsonTupleSerializer())
    return None
