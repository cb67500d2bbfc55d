"""Calls and results encoded by a codec that the user supplies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from taskyard.annotations import NOTHING, Handler, check_handler, inspect_handler, of_items
from taskyard.codec import Codec
from taskyard.errors import PayloadError, PolicyError
from taskyard.message import Envelope
from taskyard.packing import Foreign, Packing, packed
from taskyard.payload import PayloadCodec
from taskyard.values import brief, encode, reason

__all__ = ["SuppliedCodec", "codec_of"]


def codec_of(
    function: Callable[..., Any], *, task: str, batch: bool, skip_self: bool, packing: Packing
) -> PayloadCodec:
    """Build the codec of a task, by which its messages are encoded; see `PayloadCodec.of`."""
    kind = PayloadCodec if packing.codec is None else SuppliedCodec
    return kind.of(function, task=task, batch=batch, skip_self=skip_self, packing=packing)


class SuppliedCodec(PayloadCodec):
    """Encodes by the user's codec. What was encoded without one is read as far as types allow.

    Arguments:
        task: the task's name.
        handler: its signature.
        sequence: what a batch handler wants its items in.
        packing: names the codec.
        unsendable: why taskyard cannot send the handler's types itself; "": it can.
    """

    def __init__(
        self,
        task: str,
        handler: Handler,
        sequence: type,
        packing: Packing,
        unsendable: str,
        codec: Codec,
    ) -> None:
        super().__init__(task, handler, sequence, packing)
        self._fast = None
        self._unsendable = unsendable
        self._codec = codec

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        *,
        task: str,
        batch: bool,
        skip_self: bool = False,
        packing: Packing | None = None,
    ) -> PayloadCodec:
        """Build it from a handler, whose annotations may be any classes; see `PayloadCodec.of`."""
        if packing is None or packing.codec is None:
            raise PolicyError(f"task {task!r} has no codec")
        handler = inspect_handler(function, task=task, skip_self=skip_self)
        sequence: type = list
        if batch:
            handler, sequence = of_items(handler, task, check=False)
        unsendable = ""
        try:
            check_handler(handler, task)
        except PolicyError as error:
            unsendable = str(error)
            handler = _untyped(handler)
        return cls(task, handler, sequence, packing, unsendable, packing.codec)

    def encode(
        self,
        message_id: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        group_task: str = "",
    ) -> bytes:
        """Encode a call; see `PayloadCodec.encode`."""
        try:
            args, named = self._arguments.bind(args, kwargs)
        except TypeError as error:
            raise self._error(f"{error}; it takes {self._arguments}") from error
        try:
            foreign = Foreign(self._codec.name, _checked(self._codec.encode(args, named)))
        except Exception as error:  # the user's, who may raise what it likes
            given = ", ".join(map(brief, [*args, *named.values()]))
            raise self._error(
                f"codec {self._codec.name!r}: {reason(error)}; given {given}"
            ) from error
        try:
            self._call_of(foreign)
        except PayloadError as error:
            raise self._told(error) from error.__cause__
        body = encode(Envelope(message_id, foreign.packed(), group_task))
        return body if len(body) <= self._untouched else self._pack(body)

    def encode_result(self, value: Any, message_id: str = "") -> bytes:
        """Encode what a handler returned; see `PayloadCodec.encode_result`."""
        if value is None:
            return super().encode_result(value, message_id)
        try:
            foreign = Foreign(self._codec.name, _checked(self._codec.encode_result(value)))
        except Exception as error:  # the user's, who may raise what it likes
            raise self._unencoded(value, error) from error
        data = encode(foreign.packed())
        return data if len(data) <= self._untouched else self._pack_result(data, message_id)

    def _decode_slowly(self, body: bytes) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        if self._unsendable and packed(body) is None:
            raise self._error(
                f"the message was encoded without a codec, and cannot be read so: "
                f"{self._unsendable}"
            )
        return super()._decode_slowly(body)


def _checked(data: object) -> bytes:
    if not isinstance(data, bytes):
        raise PayloadError(f"it made {brief(data)}, which is not bytes")
    return data


def _untyped(handler: Handler) -> Handler:
    returns = handler.returns if handler.returns in NOTHING else Any
    arguments = tuple(replace(item, type=Any) for item in handler.arguments)
    return Handler(arguments, returns)
