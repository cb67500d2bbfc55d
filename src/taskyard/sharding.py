"""From a message to the key of its shard."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import PurePath, PureWindowsPath
from typing import Any
from uuid import UUID

from taskyard.errors import EnqueueError
from taskyard.message import is_text
from taskyard.policy import ShardKey

__all__ = ["KeyMaker", "Sharding", "key_text", "shard_text", "values_of"]

LONGEST = 500

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def shard_text(value: object) -> str:
    """The key of a shard as it is stored: text; None is no shard.

    Keys of one type that are equal have the same text in every process, and others another.

    Raises:
        EnqueueError: it is too long, or its text could be another one elsewhere.
    """
    if value is None:
        return ""
    text = value if type(value) is str else key_text("shard", value)
    if len(text) > LONGEST:
        raise EnqueueError(f"a shard key may have {LONGEST} characters; this one has {len(text)}")
    if not is_text(text):
        raise EnqueueError(f"a shard key must be valid Unicode without NUL, not {text!r}")
    return text


def key_text(what: str, value: object) -> str:
    """The text of a key of any length, the same in every process.

    Arguments:
        what: which key, for errors.
        value: it; None is another one than the text "null".

    Raises:
        EnqueueError: its text could be another one elsewhere.
    """
    try:
        if value is None or (type(value) is str and value == "null"):
            return _element(value)
        return value if type(value) is str else str(value) if type(value) is int else _text(value)
    except _NoKeyError as error:
        raise EnqueueError(f"a {what} key {error}") from None
    except (ArithmeticError, RecursionError, ValueError) as error:
        raise EnqueueError(f"a {what} key cannot be made of this: {error}") from error


class _NoKeyError(Exception):
    """A value cannot be a key, or part of one."""


@functools.singledispatch
def _text(value: Any) -> str:
    raise _NoKeyError(
        f"must be a str, int, bool, float, Decimal, bytes, UUID, Enum, date, datetime, "
        f"Path or a tuple of these, not {type(value).__qualname__}, whose text may differ from "
        f"process to process"
    )


# The methods of the types themselves: a subclass (numpy has some) may write itself otherwise.
_text.register(str, str.__str__)
_text.register(int, int.__repr__)
_text.register(bool, bool.__repr__)
_text.register(bytes, bytes.hex)
_text.register(UUID, UUID.__str__)
_text.register(date, date.isoformat)


@_text.register(float)
def _of_float(value: float) -> str:
    if value.is_integer():
        return str(int(value))  # an int is taken for a float, so 1 must be where 1.0 is
    return _of_decimal(Decimal(float.__repr__(value)))


@_text.register(Decimal)
def _of_decimal(value: Decimal) -> str:
    if value.is_nan():
        raise ValueError("NaN is not even equal to itself")
    if not value:
        return "0"
    if value.is_finite() and abs(value.adjusted()) > LONGEST:
        raise ValueError("the number has too many digits")
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@_text.register(datetime)
def _of_datetime(value: datetime) -> str:
    if value.utcoffset() is None:
        return value.isoformat()
    return value.replace(fold=0).astimezone(UTC).isoformat()  # == and hash() ignore `fold` too


@_text.register(PurePath)
def _of_path(value: PurePath) -> str:
    text = value.as_posix()
    return text.lower() if isinstance(value, PureWindowsPath) else text


@_text.register(Enum)
def _of_enum(value: Enum) -> str:
    return "" if value.value is None else _text(value.value)


@_text.register(tuple)
def _of_tuple(value: tuple[Any, ...]) -> str:
    return f"({','.join(map(_element, value))})"


def _element(value: Any) -> str:
    """The text of a key in a tuple: it tells where it ends, and "1" from 1."""
    if value is None:
        return "null"
    if isinstance(value, Enum):
        return _element(value.value)
    text = _text(value)
    if isinstance(value, (str, PurePath)):
        quoted = json.dumps(text, ensure_ascii=False)
        return quoted if isinstance(value, str) else f"p{quoted}"
    return f"x{text}" if isinstance(value, bytes) else text


class KeyMaker:
    """Makes keys of messages.

    Arguments:
        what: which key, for errors.
        task: the task's name, for errors.
        key: what the policy says: the name of an argument or field, or a function.
        signature: the handler's.
        batch: whether a message is an element of a batch.
        single: whether a message is one argument.
    """

    def __init__(
        self,
        what: str,
        task: str,
        key: ShardKey,
        signature: inspect.Signature,
        *,
        batch: bool,
        single: bool,
    ) -> None:
        self._what = what
        self._task = task
        self._key = key
        self._signature = signature
        kinds = {item.name: item.kind for item in signature.parameters.values()}
        name = key if isinstance(key, str) else ""
        kind = kinds.get(name)
        self._position = list(kinds).index(name) if kind in _POSITIONAL else sys.maxsize
        self._by_name = kind in _NAMED
        self._of_one = self._make(key, batch) if single else None

    def _make(self, key: ShardKey, batch: bool) -> Callable[[Any], object]:
        if callable(key):
            return key
        if not batch and key in self._signature.parameters:
            return _itself
        return lambda item: item[key] if type(item) is dict else getattr(item, key)

    def of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        """The key of a call.

        Raises:
            EnqueueError: it cannot be made of the arguments.
        """
        try:
            if self._of_one is not None and len(args) == 1 and not kwargs:
                return self._of_one(args[0])
            if callable(self._key):
                return self._called(self._key, args, kwargs)
            return self._argument(self._key, args, kwargs)
        except Exception as error:  # the user's function, or an argument without that field
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> EnqueueError:
        return EnqueueError(
            f"task {self._task!r}: the {self._what} key {self._key!r} cannot be made of this "
            f"message: {type(error).__name__}: {error}"
        )

    def of_item(self, item: Any) -> object:
        """The key of an item of `enqueue_many`.

        Raises:
            EnqueueError: it cannot be made of it.
        """
        if self._of_one is not None:
            try:
                return self._of_one(item)
            except Exception as error:  # the same
                raise self._refused(error) from error
        if type(item) is not tuple and isinstance(item, Mapping):
            return self.of_call((), item)
        return self.of_call(tuple(item), {})

    def of_items(self, items: Sequence[Any]) -> list[object]:
        """The keys of items; raises the same."""
        if self._of_one is not None:
            with contextlib.suppress(Exception):  # it is raised for the one that it is of
                return list(map(self._of_one, items))
        return [self.of_item(item) for item in items]

    def _called(
        self, key: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> object:
        try:
            return key(*args, **kwargs)
        except TypeError:
            bound = self._bound(args, kwargs)
            return key(*bound.args, **bound.kwargs)

    def _argument(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        if self._position < len(args):
            return args[self._position]
        if self._by_name and name in kwargs:
            return kwargs[name]
        bound = self._bound(args, kwargs)
        return bound.arguments[name] if name in bound.arguments else bound.kwargs[name]

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound


def _itself(value: Any) -> object:
    return value


def values_of(signature: inspect.Signature) -> Callable[..., object]:
    """A function that makes a key of all arguments, however they were given."""

    def values(*args: Any, **kwargs: Any) -> object:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        found = [
            tuple(sorted(value.items())) if isinstance(value, dict) and _is_rest(name) else value
            for name, value in bound.arguments.items()
        ]
        return found[0] if len(found) == 1 else tuple(found)

    def _is_rest(name: str) -> bool:
        return signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD

    return values


class Sharding:
    """How the messages of a task are sharded.

    Arguments:
        task: the task's name, for errors.
        key: what the policy says; None: not at all.
        signature: the handler's.
        batch: whether a message is an element of a batch.
        single: whether a message is one argument.
    """

    def __init__(
        self,
        task: str,
        key: ShardKey | None,
        signature: inspect.Signature,
        *,
        batch: bool,
        single: bool,
    ) -> None:
        self._maker: KeyMaker | None = None
        if key is not None:
            self._maker = KeyMaker("shard", task, key, signature, batch=batch, single=single)

    def of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The shard of a call.

        Raises:
            EnqueueError: the key cannot be made of the arguments.
        """
        return "" if self._maker is None else shard_text(self._maker.of_call(args, kwargs))

    def of_item(self, item: Any) -> str:
        """The shard of an item of `enqueue_many`.

        Raises:
            EnqueueError: the key cannot be made of it.
        """
        return "" if self._maker is None else shard_text(self._maker.of_item(item))
