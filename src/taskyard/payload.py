"""Calls of a handler as bytes and back, typed by the handler's annotations.

The payload in the envelope is an array of the arguments by position. Only a call that cannot be
written so, because it leaves a gap before an argument or has keyword-only ones, is a map: names to
arguments, and 0 to the array. What a call leaves out is not sent, so that the default is always the
one of the worker's code; and an item of a batch task is sent like the one argument of a plain task.

What is done to a payload after that (`taskyard.packing`) is undone before it is decoded. The codecs
that users supply are in `taskyard.supplied`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from taskyard.annotations import NOTHING, Handler, check_handler, inspect_handler, of_items
from taskyard.arguments import Arguments, sent
from taskyard.errors import PayloadError
from taskyard.message import Envelope
from taskyard.packing import Foreign, Packing, packed, refused_ext
from taskyard.values import Value, brief, encode, reason

__all__ = ["PayloadCodec", "Unnamed"]

_decode_parts = msgspec.msgpack.Decoder(Envelope[list[Raw] | dict[int | str, Raw]]).decode
_plain = Value(Any, "result")
_decode_array = msgspec.msgpack.Decoder(list[Raw]).decode


class Unnamed:
    """Decodes results of tasks that are not known here: plain data comes out.

    Arguments:
        packing: what may have been done to them.
    """

    def __init__(self, packing: Packing) -> None:
        self._packing = packing

    def decode_result(self, data: bytes, message_id: str) -> Any:
        """Decode a result.

        Raises:
            PayloadError: the bytes are broken.
            CannotOpen: a key, codec or package is missing.
        """
        found = self._packing.open_result(data, message_id)
        return (
            _result_of(self._packing, found) if isinstance(found, Foreign) else _plain.decode(found)
        )


class PayloadCodec:
    """Encodes and decodes the messages and results of one task.

    Attributes:
        single: whether the task has exactly one parameter, so that an item of `encode_many` is
            that argument. True for batch tasks.
        keeps_results: whether the handler can return anything but None.
        sequence: what a batch handler wants its items in: list or tuple.
    """

    def __init__(
        self, task: str, handler: Handler, sequence: type = list, packing: Packing | None = None
    ) -> None:
        self._task = task
        self._packing = packing or Packing()
        self._untouched = self._packing.untouched
        self._arguments = Arguments(handler)
        self._fast = self._arguments.one_pass()
        self._result = Value(Any if handler.returns in NOTHING else handler.returns, "the result")
        self.single = len(handler.arguments) == 1 and handler.arguments[0].positional
        self.keeps_results = handler.returns not in NOTHING
        self.sequence = sequence

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
        """Build the codec of a task from its handler.

        Arguments:
            function: the handler.
            task: the task's name, for errors.
            batch: whether the handler takes a list of items.
            skip_self: whether the handler is a method, whose first parameter is not sent.
            packing: what is done to what was encoded.

        Returns:
            The codec.

        Raises:
            PolicyError: an annotation cannot be resolved or sent, or a batch handler does not take
                one list, or returns something else.
        """
        handler = inspect_handler(function, task=task, skip_self=skip_self)
        sequence: type = list
        if batch:
            handler, sequence = of_items(handler, task)
        check_handler(handler, task)
        return cls(task, handler, sequence, packing)

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
        named = kwargs
        if kwargs or not self._arguments.takes(len(args)):
            try:
                args, named = self._arguments.bind(args, kwargs)
            except TypeError as error:
                raise self._error(f"{error}; it takes {self._arguments}") from error
        try:
            body = encode(Envelope(message_id, {0: args, **named} if named else args, group_task))
            if named:
                self._decode_slowly(body)
            else:
                self.decode(body)
        except Exception as error:  # noqa: BLE001 - a user's class may raise what it likes
            found = self._refusal(args, named, error)
            raise found from found.__cause__
        return body if len(body) <= self._untouched else self._pack(body)

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
        check = self._fast if self.single else None
        for message_id, item in zip(ids, items, strict=True):
            try:
                if check is None:
                    body = self._encode_call(message_id, item, group_task)
                else:
                    body = encode(Envelope(message_id, (item,), group_task))
                    check(body)
                    if len(body) > self._untouched:
                        body = self._pack(body)
            except PayloadError as error:
                raise PayloadError(f"item {len(bodies)}: {error}") from error.__cause__
            except Exception as error:  # noqa: BLE001 - as in `encode`
                found = self._refusal((item,), {}, error)
                raise PayloadError(f"item {len(bodies)}: {found}") from found.__cause__
            bodies.append(body)
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
            except Exception:  # noqa: BLE001 - slowly: by name, or for the text of the error
                return self._decode_slowly(body)
            return envelope.id, sent(envelope.payload), {}
        return self._decode_slowly(body)

    def decode_item(self, body: bytes) -> tuple[str, Any]:
        """Decode a message of a batch task; see `decode`."""
        message_id, args, _ = self.decode(body)
        return message_id, args[0]

    def decode_items(self, bodies: Iterable[bytes]) -> tuple[list[str], list[Any]] | None:
        """Decode messages of a batch task at once; see `decode_item`.

        Returns:
            Their ids, and their items; None if that does not go for all of them.
        """
        fast = self._fast
        if fast is None:
            return None
        try:
            envelopes = [fast(body) for body in bodies]
        except Exception:  # noqa: BLE001 - one by one, it is told which and why
            return None
        ids = [envelope.id for envelope in envelopes]
        if envelopes and type(envelopes[0].payload) is tuple:  # then all are
            return ids, [envelope.payload[0] for envelope in envelopes]
        return ids, [sent(envelope.payload)[0] for envelope in envelopes]

    def encode_result(self, value: Any, message_id: str = "") -> bytes:
        """Encode what a handler returned; of a batch handler, one element of it.

        Arguments:
            value: the result.
            message_id: whose.

        Returns:
            The result as bytes.

        Raises:
            PayloadError: it cannot be encoded, or is too large.
        """
        try:
            if refused_ext(value):
                raise PayloadError(f"extension {value.code} of MessagePack is taskyard's own")
            data = encode(value)
        except Exception as error:  # as in `encode`
            raise self._unencoded(value, error) from error
        return data if len(data) <= self._untouched else self._pack_result(data, message_id)

    def decode_result(self, data: bytes, message_id: str = "") -> Any:
        """Decode a result, by the return annotation if there is one.

        Arguments:
            data: the result as bytes.
            message_id: whose.

        Returns:
            The result.

        Raises:
            PayloadError: the bytes are broken, or do not fit the annotation.
            CannotOpen: a key, codec or package is missing.
        """
        try:
            found = self._packing.open_result(data, message_id)
            if isinstance(found, Foreign):
                return _result_of(self._packing, found)
            return self._result.decode(found)
        except PayloadError as error:
            raise self._told(error) from error.__cause__

    def _encode_call(self, message_id: str, item: Any, group_task: str) -> bytes:
        if self.single:
            return self.encode(message_id, (item,), {}, group_task=group_task)
        if isinstance(item, Mapping):
            return self.encode(message_id, (), item, group_task=group_task)
        if isinstance(item, (tuple, list)):
            return self.encode(message_id, tuple(item), {}, group_task=group_task)
        raise self._error(
            f"it takes {self._arguments}, so an item must be a tuple of arguments by position or a "
            f"mapping of arguments by name; given {brief(item)}"
        )

    def _decode_slowly(self, body: bytes) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """Decode one argument after the other."""
        try:
            envelope = _decode_parts(body)
            payload: Any = envelope.payload
            named: dict[Any, Raw] = payload if isinstance(payload, dict) else {}
            raws = _decode_array(named.pop(0, b"\x90")) if payload is named else payload
        except Exception as error:  # hostile bytes make msgspec raise more than its own errors
            if (wrapped := packed(body)) is not None:
                return self._decode_packed(wrapped)
            raise self._error(f"this is no message: {reason(error)}") from error
        try:
            return envelope.id, *self._arguments.decode(raws, named)
        except PayloadError as error:
            raise self._error(str(error)) from error.__cause__

    def _decode_packed(
        self, envelope: Envelope[Any]
    ) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """Decode a message to whose payload something was done."""
        try:
            found = self._packing.open_body(envelope, self._task)
            if isinstance(found, Foreign):
                return envelope.id, *self._call_of(found)
        except PayloadError as error:
            raise self._told(error) from error.__cause__
        return self.decode(encode(Envelope(envelope.id, Raw(found), envelope.task)))

    def _call_of(self, foreign: Foreign) -> tuple[tuple[Any, ...], dict[str, Any]]:
        codec = self._packing.reader(foreign)
        try:
            args, kwargs = codec.decode(foreign.data)
            return self._arguments.bind(tuple(args), kwargs)
        except Exception as error:  # the user's, who may raise what it likes
            raise PayloadError(f"codec {foreign.codec!r}: {reason(error)}") from error

    def _pack(self, body: bytes) -> bytes:
        try:
            return self._packing.pack_body(body, self._task)
        except PayloadError as error:
            raise self._told(error) from error.__cause__

    def _pack_result(self, data: bytes, message_id: str) -> bytes:
        try:
            return self._packing.pack_result(data, message_id)
        except PayloadError as error:
            raise self._told(error) from error.__cause__

    def _unencoded(self, value: Any, error: Exception) -> PayloadError:
        """A result could not be encoded. The text is stored, so it tells nothing of a secret."""
        given = "" if self._packing.is_secret else f"; given {brief(value)}"
        return self._error(f"the result: {reason(error)}{given}")

    def _told(self, error: PayloadError) -> PayloadError:
        """The same error with the name of the task."""
        return type(error)(f"task {self._task!r}: {error}")

    def _refusal(
        self, args: tuple[Any, ...], named: Mapping[str, Any], error: Exception
    ) -> PayloadError:
        """Say which argument it was that could not be encoded, or does not decode."""
        for value, given in self._arguments.match(args, named):
            try:
                value.check(given)
            except PayloadError as found:
                refusal = self._error(str(found))
                refusal.__cause__ = found.__cause__
                return refusal
        return self._error(f"the call cannot be encoded: {reason(error)}")

    def _error(self, text: str) -> PayloadError:
        return PayloadError(f"task {self._task!r}: {text}")


def _result_of(packing: Packing, foreign: Foreign) -> Any:
    codec = packing.reader(foreign)
    try:
        return codec.decode_result(foreign.data)
    except Exception as error:  # the user's, who may raise what it likes
        raise PayloadError(f"codec {foreign.codec!r}: {reason(error)}") from error
