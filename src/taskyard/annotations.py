"""What a handler's signature and annotations say about the values that it can be sent."""

from __future__ import annotations

import collections.abc as abc
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from inspect import Parameter
from pathlib import PurePath
from types import FunctionType
from typing import Any, Annotated, get_args, get_origin

import msgspec
from msgspec.inspect import CustomType, type_info

from taskyard.errors import PolicyError

__all__ = ["Argument", "Handler", "carried", "from_plain", "inspect_handler", "item_type", "to_plain"]

SUPPORTED = (
    "supported are None, bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, "
    "UUID, Path, Enum and Literal of texts or numbers, list, tuple, set, dict, dataclasses, "
    "NamedTuple, TypedDict, msgspec, attrs and pydantic classes of these, unions that can be told "
    "apart, and Any for plain data"
)
_SEQUENCES = (list, tuple, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable)


@dataclass(frozen=True, slots=True)
class Argument:
    """One parameter of a handler.

    Arguments:
        name: as the handler calls it.
        kind: one of the kinds of `inspect.Parameter`.
        type: its annotation with all names resolved; Any where there is none. That of `*args`
            and `**kwargs` is the type of one value.
        required: whether there is no default.
    """

    name: str
    kind: Any
    type: Any
    required: bool

    @property
    def positional(self) -> bool:
        """Whether it takes exactly one argument, by position."""
        return self.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)

    def __str__(self) -> str:
        mark = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}.get(self.kind, "")
        return f"{mark}{self.name}" + ("" if self.required or mark else "=...")


@dataclass(frozen=True, slots=True)
class Handler:
    """The signature of a handler.

    Arguments:
        arguments: its parameters in order.
        returns: its return annotation with all names resolved; Any where there is none.
    """

    arguments: tuple[Argument, ...]
    returns: Any


def inspect_handler(function: Callable[..., Any], *, task: str, skip_self: bool = False) -> Handler:
    """Read the signature of a handler and resolve its annotations.

    Arguments:
        function: the handler; a builtin that does not tell its signature counts as `*args`.
        task: the task's name, for errors.
        skip_self: whether the first parameter is the handler class's `self`.

    Returns:
        The signature. Nothing is known yet about whether its types can be sent.

    Raises:
        PolicyError: an annotation names what cannot be found.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        signature = inspect.Signature([Parameter("args", Parameter.VAR_POSITIONAL)])
    except NameError as error:  # Python 3.14 evaluates annotations here
        raise PolicyError(f"task {task!r}: an annotation cannot be resolved: {error}") from error
    parameters = list(signature.parameters.values())
    if skip_self and parameters and parameters[0].kind is not Parameter.VAR_POSITIONAL:
        del parameters[0]
    names = _Names(function)
    arguments = [
        Argument(
            item.name,
            item.kind,
            names.resolve(item.annotation, f"task {task!r}: parameter {item.name!r}"),
            item.default is item.empty
            and item.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD),
        )
        for item in parameters
    ]
    returns = names.resolve(signature.return_annotation, f"task {task!r}: the result")
    return Handler(tuple(arguments), returns)


def carried(annotation: Any, what: str) -> Any:
    """Check that values of a type can be sent.

    Arguments:
        annotation: the type.
        what: what is annotated, for errors.

    Returns:
        The type.

    Raises:
        PolicyError: they cannot; says why, and what can.
    """
    try:
        msgspec.msgpack.Decoder(annotation)
        unknown = next(_foreign(annotation), None)
    except Exception as error:  # a user's metaclass or __class_getitem__ may raise what it likes
        raise PolicyError(
            f"{what}: {_shown(annotation)} cannot be sent: {error}; {SUPPORTED}"
        ) from error
    if unknown is not None:
        inner = "" if unknown is annotation else f", because of {_shown(unknown)}"
        raise PolicyError(f"{what}: {_shown(annotation)} cannot be sent{inner}; {SUPPORTED}")
    return annotation


def item_type(annotation: Any) -> Any:
    """The type of the items of a list.

    Arguments:
        annotation: a list, a sequence or a tuple of any length; or Any.

    Returns:
        The type, Any when it is not told, or None when the annotation is no list at all.
    """
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__"):  # `type Orders = list[Order]`
            annotation = annotation.__value__
        else:
            break
    if annotation in (Any, object):
        return Any
    origin, inner = get_origin(annotation) or annotation, get_args(annotation)
    if origin not in _SEQUENCES:
        return None
    if not inner:
        return Any
    if origin is tuple and (len(inner) != 2 or inner[1] is not Ellipsis):
        return None
    return inner[0]


def to_plain(value: Any) -> Any:
    """Turn what msgspec does not know into what it does.

    Arguments:
        value: a path, a pydantic model, or an object of a class derived from a plain type.

    Returns:
        Plain data.

    Raises:
        TypeError: the value cannot be sent.
    """
    if isinstance(value, PurePath):
        return str(value)
    kind = type(value)
    if _is_model(kind):
        return value.model_dump(mode="python", round_trip=True, by_alias=not _takes_names(kind))
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, bytes):
        return bytes.__getitem__(value, slice(None))
    if kind.__name__.endswith("Url") and kind.__module__.startswith("pydantic"):
        return str(value)
    raise TypeError(f"objects of {_shown(kind)} cannot be sent")


def from_plain(annotation: Any, value: Any) -> Any:
    """Turn plain data into what msgspec does not know.

    Arguments:
        annotation: the type of a field or parameter: only these can come to life.
        value: plain data.

    Returns:
        An instance of the type.

    Raises:
        ValueError: the data does not fit the type.
    """
    if annotation is object:
        return value
    if issubclass(annotation, PurePath):
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


def _is_model(kind: type) -> bool:
    # Whoever made a model has imported pydantic; whoever has not pays nothing for it.
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None
        and hasattr(kind, "model_validate")
        and issubclass(kind, pydantic.BaseModel)
    )


def _takes_names(model: Any) -> bool:
    # Since pydantic 2.11. Before, a model with aliases is read by alias only.
    return "by_name" in inspect.signature(model.model_validate).parameters


def _foreign(annotation: Any) -> Iterator[Any]:
    """The classes inside a type that neither msgspec nor our hooks know."""
    seen: set[int] = set()
    todo: list[Any] = [type_info(annotation)]
    while todo:
        node = todo.pop()
        if isinstance(node, tuple):
            todo.extend(node)
        elif isinstance(node, CustomType):
            if not _hooked(node.cls):
                yield node.cls
        elif isinstance(node, (msgspec.inspect.Type, msgspec.inspect.Field)):
            if id(node) not in seen:  # a recursive type contains itself
                seen.add(id(node))
                todo.extend(getattr(node, name) for name in node.__struct_fields__)


def _hooked(kind: Any) -> bool:
    if kind is object:
        return True
    return isinstance(kind, type) and (issubclass(kind, PurePath) or _is_model(kind))


def _shown(annotation: Any) -> str:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if annotation.__module__ in ("builtins", "__main__"):
            return f"`{annotation.__qualname__}`"
        return f"`{annotation.__module__}.{annotation.__qualname__}`"
    return f"`{annotation}`"


class _Names:
    """The names that a handler's annotations may use.

    These are those of its module, those that it closes over, and, while the functions and classes
    around it still run (as they do when a decorator declares the task), the names in these.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        source = _source(function)
        self.outer: dict[str, Any] = getattr(source, "__globals__", {})
        self.inner: dict[str, Any] = {}
        if not isinstance(source, FunctionType):
            return
        path = source.__qualname__.split(".")
        around = {".".join(path[:length]) for length in range(1, len(path))}
        around |= {name.removesuffix(".<locals>") for name in around}
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_globals is self.outer and frame.f_code.co_qualname in around:
                self.inner = {**frame.f_locals, **self.inner}
            frame = frame.f_back  # type: ignore[assignment]
        for name, cell in zip(source.__code__.co_freevars, source.__closure__ or (), strict=True):
            try:
                self.inner[name] = cell.cell_contents
            except ValueError:  # assigned only later
                continue
        self.inner.update({item.__name__: item for item in getattr(source, "__type_params__", ())})

    def resolve(self, annotation: Any, what: str) -> Any:
        """The type that an annotation, or a text in its place, stands for."""
        if annotation is Parameter.empty:
            return Any

        def holder() -> None: ...

        holder.__annotations__ = {"it": annotation}
        try:
            hints = typing.get_type_hints(holder, self.outer, self.inner, include_extras=True)
        except Exception as error:  # a text may hold any expression
            raise PolicyError(
                f"{what}: annotation {annotation!r} cannot be resolved: {error}; what it names "
                f"must be there at run time, not only under `if TYPE_CHECKING`, best at the top "
                f"of the handler's module"
            ) from error
        return hints["it"]


def _source(function: Any) -> Any:
    """The function in whose module the annotations of a callable were written."""
    while True:
        if isinstance(function, partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif hasattr(function, "__func__"):
            function = function.__func__
        elif isinstance(function, type):
            function = function.__init__
        elif not hasattr(function, "__globals__") and hasattr(type(function).__call__, "__code__"):
            function = type(function).__call__
        else:
            return function
