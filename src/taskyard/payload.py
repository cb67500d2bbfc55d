"""Calls of a handler as bytes and back, typed by the handler's annotations.

The payload in the envelope is an array of the arguments by position. Only a call that cannot be
written so, because it leaves a gap before an argument or has keyword-only ones, is a map: names to
arguments, and 0 to the array. What a call leaves out is not sent, so that the default is always the
one of the worker's code; and an item of a batch task is sent like the one argument of a plain task.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, Signature
from types import NoneType
from typing import Any, Never, NoReturn, TypeAlias, get_args

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import astuple

from taskyard.annotations import (
    Argument,
    Handler,
    carried,
    from_plain,
    inspect_handler,
    item_type,
    to_plain,
)
from taskyard.errors import PayloadError, PolicyError
from taskyard.message import Envelope

__all__ = ["PayloadCodec"]

Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

_encode = msgspec.msgpack.Encoder(enc_hook=to_plain).encode
_parts = msgspec.msgpack.Decoder(Envelope[list[Raw] | dict[int | str, Raw]]).decode
_array = msgspec.msgpack.Decoder(list[Raw]).decode


class PayloadCodec:
    """Encodes and decodes the messages and results of one task.

    Attributes:
        single: whether the task has exactly one parameter, so that an item of `encode_many` is
            that argument. True for batch tasks.
        keeps_results: whether the handler can return anything but None.
        sequence: what a batch handler wants its items in: list or tuple.
    """

    def __init__(self, task: str, handler: Handler, sequence: type = list) -> None:
        self._task = task
        self._positional = [item for item in handler.arguments if item.positional]
        self._values = {item.name: _Value(item.type, item.name) for item in handler.arguments}
        self._var_positional = _first(handler.arguments, Parameter.VAR_POSITIONAL)
        self._var_keyword = _first(handler.arguments, Parameter.VAR_KEYWORD)
        self._keyword_only = [a for a in handler.arguments if a.kind is Parameter.KEYWORD_ONLY]
        self._result = _Value(handler.returns, "result")
        self._signature = _signature(handler.arguments)
        self._shape = f"({', '.join(map(str, handler.arguments))})"
        self._least = sum(item.required for item in self._positional)
        self._most: float = float("inf") if self._var_positional else len(self._positional)
        self._fast = self._fast_decoder()
        # Of a struct, what was not sent is UNSET at its end; a tuple is what was sent.
        self._cut = self._least < len(self._positional)
        self.single = len(handler.arguments) == len(self._positional) == 1
        self.keeps_results = handler.returns not in (NoneType, NoReturn, Never)
        self.sequence = sequence

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        *,
        task: str,
        batch: bool,
        skip_self: bool = False,
    ) -> PayloadCodec:
        """Build the codec of a task from its handler.

        Arguments:
            function: the handler.
            task: the task's name, for errors.
            batch: whether the handler takes a list of items.
            skip_self: whether the handler is a method, whose first parameter is not sent.

        Returns:
            The codec.

        Raises:
            PolicyError: an annotation cannot be resolved or sent, or a batch handler does not take
                one list, or does not return one.
        """
        handler = inspect_handler(function, task=task, skip_self=skip_self)
        sequence: type = list
        if batch:
            handler, sequence = _of_one_item(handler, task)
        for item in handler.arguments:
            carried(item.type, f"task {task!r}: parameter {item.name!r}")
        if handler.returns not in (NoReturn, Never):
            carried(handler.returns, f"task {task!r}: the result")
        return cls(task, handler, sequence)

    def encode(
        self,
        message_id: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        group_task: str = "",
    ) -> bytes:
        """Encode a call.

        Arguments:
            message_id: the id of the message.
            args: the arguments given by position.
            kwargs: the arguments given by name.
            group_task: the task's name, where the envelope needs it.

        Returns:
            The envelope as bytes, which are known to decode.

        Raises:
            PayloadError: an argument is missing, unknown, does not fit or cannot be encoded.
        """
        named: Mapping[str, Any] = kwargs
        if kwargs or self._keyword_only or not self._least <= len(args) <= self._most:
            args, named = self._bind(args, kwargs)
        try:
            if named:
                body = _encode(Envelope(message_id, {0: args, **named}, group_task))
                self._decode_parts(body)
            else:
                body = _encode(Envelope(message_id, args, group_task))
                self._check(body)
        except Exception as error:  # a user's class may raise what it likes while it is encoded
            raise self._refusal(args, named, error) from error
        return body

    def encode_item(self, message_id: str, item: Any, *, group_task: str = "") -> bytes:
        """Encode an item of a batch task; see `encode`."""
        return self.encode(message_id, (item,), {}, group_task=group_task)

    def encode_many(
        self, ids: Iterable[str], items: Iterable[Any], *, group_task: str = ""
    ) -> list[bytes]:
        """Encode many calls.

        Arguments:
            ids: the ids of the messages.
            items: as many items. If the task is `single`, each is the argument; otherwise a tuple
                (or list) of arguments by position, or a mapping of arguments by name.
            group_task: the task's name, where the envelope needs it.

        Returns:
            The envelopes as bytes.

        Raises:
            PayloadError: an item is refused; says which one.
        """
        bodies: list[bytes] = []
        append, check, single = bodies.append, self._check, self.single
        for message_id, item in zip(ids, items, strict=True):
            try:
                if single:
                    body = _encode(Envelope(message_id, (item,), group_task))
                    check(body)
                else:
                    body = self._encode_call(message_id, item, group_task)
            except Exception as error:  # as in `encode`
                if single:
                    error = self._refusal((item,), {}, error)
                raise PayloadError(f"item {len(bodies)}: {error}") from error
            append(body)
        return bodies

    def decode(self, body: bytes) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """Decode a message.

        Arguments:
            body: the envelope as bytes, from anywhere.

        Returns:
            The id of the message, the arguments by position, and those by name. Arguments that
            were left to their defaults are missing.

        Raises:
            PayloadError: the bytes are no message, or do not fit the handler; says why.
        """
        if self._fast is not None:
            try:
                envelope = self._fast(body)
            except Exception:  # noqa: BLE001, S110 - done again below, where the error gets its text
                pass
            else:
                args = envelope.payload
                return envelope.id, _sent(args) if self._cut else args, {}
        return self._decode_parts(body)

    def decode_item(self, body: bytes) -> tuple[str, Any]:
        """Decode a message of a batch task; see `decode`."""
        message_id, args, _ = self.decode(body)
        return message_id, args[0]

    def encode_result(self, value: Any) -> bytes:
        """Encode what a handler returned, of a batch handler one element.

        Arguments:
            value: the result.

        Returns:
            The result as bytes.

        Raises:
            PayloadError: it cannot be encoded.
        """
        try:
            return _encode(value)
        except Exception as error:  # as in `encode`
            raise PayloadError(
                f"task {self._task!r}: result: {_reason(error)}; given {_brief(value)}"
            ) from error

    def decode_result(self, data: bytes) -> Any:
        """Decode a result, by the return annotation if there is one.

        Arguments:
            data: the result as bytes.

        Returns:
            The result.

        Raises:
            PayloadError: the bytes are broken, or do not fit the annotation.
        """
        try:
            return self._result.decode(data)
        except PayloadError as error:
            raise PayloadError(f"task {self._task!r}: {error}") from error

    def _fast_decoder(self) -> Callable[[bytes], Envelope[Any]] | None:
        """What decodes an array of arguments in one go, where there is such a type."""
        if any(item.required for item in self._keyword_only):
            return None
        types = tuple(item.type for item in self._positional)
        form: Any
        if self._var_positional is not None:
            if types:
                return None
            form = tuple.__class_getitem__((self._var_positional.type, ...))
        elif self._least == len(types):
            form = tuple.__class_getitem__(types)
        else:
            form = msgspec.defstruct(
                "Arguments",
                [
                    (f"a{index}", item.type) if item.required else (f"a{index}", item.type, UNSET)
                    for index, item in enumerate(self._positional)
                ],
                array_like=True,
                forbid_unknown_fields=True,
            )
        envelope: Any = Envelope
        decoder = msgspec.msgpack.Decoder(envelope[form], dec_hook=from_plain)
        return decoder.decode

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Move arguments given by name to their positions, up to the first gap."""
        named = dict(kwargs)
        for item in self._positional[len(args) :]:
            if item.kind is Parameter.POSITIONAL_ONLY or item.name not in named:
                break
            args += (named.pop(item.name),)
        if named or self._keyword_only or not self._least <= len(args) <= self._most:
            try:
                self._signature.bind(*args, **named)
            except TypeError as error:
                raise PayloadError(
                    f"task {self._task!r}: {error}; it takes {self._shape}"
                ) from error
        return args, named

    def _encode_call(self, message_id: str, item: Any, group_task: str) -> bytes:
        if isinstance(item, Mapping):
            return self.encode(message_id, (), item, group_task=group_task)
        if isinstance(item, (tuple, list)):
            return self.encode(message_id, tuple(item), {}, group_task=group_task)
        raise PayloadError(
            f"task {self._task!r} takes {self._shape}, so an item must be a tuple of arguments or "
            f"a mapping of names to arguments; given {_brief(item)}"
        )

    def _check(self, body: bytes) -> None:
        if self._fast is None:
            self._decode_parts(body)
        else:
            self._fast(body)

    def _refusal(
        self, args: Sequence[Any], named: Mapping[str, Any], error: Exception
    ) -> PayloadError:
        """Say which argument it was that could not be encoded."""
        names = [item.name for item in self._positional]
        names += [self._var_positional.name if self._var_positional else ""] * (
            len(args) - len(names)
        )
        pairs = [*zip(names, args, strict=False), *named.items()]
        for name, given in pairs:
            try:
                self._value(name).check(given, name)
            except PayloadError as found:
                return PayloadError(f"task {self._task!r}: argument {found}")
        return PayloadError(f"task {self._task!r}: the call cannot be encoded: {_reason(error)}")

    def _value(self, name: str) -> _Value:
        value = self._values.get(name)
        if value is None and self._var_keyword is not None:
            value = self._values[self._var_keyword.name]
        if value is None:
            raise KeyError(name)
        return value

    def _decode_parts(self, body: bytes) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """Decode one argument after the other: any form of payload, and with clear errors."""
        try:
            envelope = _parts(body)
            named: dict[Any, Raw] = {}
            payload: Any = envelope.payload
            if isinstance(payload, dict):
                named = payload
                payload = _array(named.pop(0, b"\x90"))
        except Exception as error:  # hostile bytes make msgspec raise more than its own errors
            raise PayloadError(f"task {self._task!r}: this is no message: {_reason(error)}") from error
        try:
            args = self._decode_positional(payload)
            return envelope.id, args, self._decode_named(named, len(args))
        except PayloadError as error:
            raise PayloadError(f"task {self._task!r}: {error}") from error.__cause__
