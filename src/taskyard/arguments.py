"""The arguments of a call: which belong to which parameter, and what they must be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from itertools import chain, repeat
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from taskyard.annotations import Argument, Handler
from taskyard.errors import PayloadError
from taskyard.message import Envelope
from taskyard.values import Value, brief, decoder

__all__ = ["Arguments", "sent"]

NEWER = "the producer may run newer code than this worker"

# Types that are put together at run time, which mypy does not follow.
_tuple: Any = tuple
_envelope: Any = Envelope


class Arguments:
    """The parameters of a handler, as what calls are bound to.

    Arguments:
        handler: its signature.
    """

    def __init__(self, handler: Handler) -> None:
        self._described = handler.described()
        self._positional = [item for item in handler.arguments if item.positional]
        self._slots = [_value(item) for item in self._positional]
        self._by_name = {
            item.name: _value(item)
            for item in handler.arguments
            if item.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        }
        self._required = [item.name for item in handler.arguments if item.required]
        variable = {item.kind: item for item in handler.arguments if item.variable}
        rest = variable.get(Parameter.VAR_POSITIONAL)
        extra = variable.get(Parameter.VAR_KEYWORD)
        self._rest_type = None if rest is None else rest.type
        self._rest = None if rest is None else _value(rest)
        self._extra = None if extra is None else _value(extra)
        self._signature = _signature(handler)
        self._least = sum(item.required for item in self._positional)
        self._most: float = len(self._positional) if self._rest is None else float("inf")
        if len(self._required) > self._least:
            self._most = -1  # something is required by name, so positions are never enough

    def __str__(self) -> str:
        return self._described

    def takes(self, count: int) -> bool:
        """Whether so many arguments by position, and none by name, are a call."""
        return self._least <= count <= self._most

    def bind(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Move arguments given by name to their positions, up to the first gap.

        Arguments:
            args: the arguments given by position.
            kwargs: the arguments given by name.

        Returns:
            The same call.

        Raises:
            TypeError: this is no call of the handler; in Python's words.
        """
        named = dict(kwargs)
        for item in self._positional[len(args) :]:
            if item.kind is Parameter.POSITIONAL_ONLY or item.name not in named:
                break
            args += (named.pop(item.name),)
        if named or not self.takes(len(args)):
            self._signature.bind(*args, **named)
        return args, named

    def match(self, args: Sequence[Any], named: Mapping[Any, Any]) -> Iterator[tuple[Value, Any]]:
        """Tell of each argument what it must be.

        Arguments:
            args: the arguments by position.
            named: the arguments by name.

        Returns:
            Pairs of what is expected and what is given, those by position first.

        Raises:
            PayloadError: an argument belongs to no parameter.
        """
        if self._rest is None and len(args) > len(self._slots):
            raise PayloadError(
                f"{len(args)} arguments by position, but the handler takes {self}; {NEWER}"
            )
        rest = () if self._rest is None else repeat(self._rest)
        yield from zip(chain(self._slots, rest), args, strict=False)
        twice = {item.name for item in self._positional[: len(args)]} & self._by_name.keys()
        for name, given in named.items():
            if name in twice:
                raise PayloadError(f"argument {name!r} by position and by name")
            value = self._by_name.get(name, self._extra)
            if value is None or not isinstance(name, str):
                raise PayloadError(f"argument {brief(name)}, but the handler takes {self}; {NEWER}")
            yield value, given

    def decode(
        self, args: Sequence[Raw], named: Mapping[Any, Raw]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Decode one argument after the other.

        Arguments:
            args: the arguments by position.
            named: the arguments by name.

        Returns:
            The same call, with values.

        Raises:
            PayloadError: an argument does not fit, belongs to no parameter, or is missing.
        """
        values = [value.decode(raw) for value, raw in self.match(args, named)]
        given = {item.name for item in self._positional[: len(args)]}
        given |= named.keys() & self._by_name.keys()
        missing = [name for name in self._required if name not in given]
        if missing:
            raise PayloadError(
                f"argument {missing[0]!r} is missing, the handler takes {self}; the producer may "
                f"run older code than this worker"
            )
        return tuple(values[: len(args)]), dict(zip(named, values[len(args) :], strict=True))

    def one_pass(self) -> Callable[[bytes], Envelope[Any]] | None:
        """What decodes a message whose arguments are all by position in one go.

        Returns:
            A function; of the envelope that it returns, `sent` tells the arguments. None where
            no type describes the arguments.
        """
        types = tuple(item.type for item in self._positional)
        form: Any = None
        if self._most == len(types):
            form = _tuple[types] if self._least == len(types) else self._struct()
        elif self._rest is not None and not types and self._most > 0:
            form = _tuple[self._rest_type, ...]
        return None if form is None else decoder(_envelope[form]).decode

    def _struct(self) -> type[msgspec.Struct]:
        """Arguments of which the last ones may be missing."""
        fields: list[Any] = []
        for index, item in enumerate(self._positional):
            field = (f"a{index}", item.type)
            fields.append(field if item.required else (*field, UNSET))
        return msgspec.defstruct("Call", fields, array_like=True, forbid_unknown_fields=True)


def sent(payload: Any) -> tuple[Any, ...]:
    """The arguments that a message carries, without those that it leaves to their defaults.

    Arguments:
        payload: of an envelope that `Arguments.one_pass` decoded.

    Returns:
        The arguments by position.
    """
    if type(payload) is tuple:
        return payload
    args = msgspec.structs.astuple(payload)
    length = len(args)
    while length and args[length - 1] is UNSET:
        length -= 1
    return args[:length]


def _value(item: Argument) -> Value:
    return Value(item.type, f"{'a value of' if item.variable else 'argument'} {item.marked!r}")


def _signature(handler: Handler) -> Signature:
    return Signature(
        [
            Parameter(
                item.name,
                item.kind,
                default=Parameter.empty if item.required or item.variable else None,
            )
            for item in handler.arguments
        ]
    )
