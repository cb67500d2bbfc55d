"""What a handler's signature and annotations say about the values that it can be sent."""

from __future__ import annotations

import inspect
import sys
import typing
from collections import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from inspect import Parameter
from types import FrameType, FunctionType, NoneType, UnionType
from typing import Annotated, Any, Never, NoReturn, Union, get_args, get_origin

from msgspec.inspect import CustomType, Field, Type, type_info

from taskyard.errors import PolicyError
from taskyard.values import decoder, hooked, shown

__all__ = [
    "NOTHING",
    "Argument",
    "Handler",
    "carried",
    "check_handler",
    "inspect_handler",
    "of_items",
]

SUPPORTED = (
    "supported are None, bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, "
    "UUID, Path, Enum and Literal of texts or numbers, list, tuple, set, dict, dataclasses, "
    "NamedTuple, TypedDict, msgspec, attrs and pydantic classes of these, unions that can be told "
    "apart, and Any for plain data"
)
SEQUENCES = (list, tuple, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable)
NOTHING = (NoneType, NoReturn, Never)


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

    @property
    def variable(self) -> bool:
        """Whether it takes any number of arguments."""
        return self.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

    @property
    def marked(self) -> str:
        """Its name with the stars that it has in the signature."""
        mark = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}.get(self.kind, "")
        return mark + self.name


@dataclass(frozen=True, slots=True)
class Handler:
    """The signature of a handler.

    Arguments:
        arguments: its parameters in order.
        returns: its return annotation with all names resolved; Any where there is none.
    """

    arguments: tuple[Argument, ...]
    returns: Any

    def described(self) -> str:
        """The parameters in one line, for errors."""
        texts: list[str] = []
        for item in self.arguments:
            if item.kind is Parameter.KEYWORD_ONLY and not any(t.startswith("*") for t in texts):
                texts.append("*")
            optional = not item.required and not item.variable
            texts.append(f"{item.marked}=..." if optional else item.marked)
        return f"({', '.join(texts)})"


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
            _required(item),
        )
        for item in parameters
    ]
    returns = names.resolve(signature.return_annotation, f"task {task!r}: the result")
    return Handler(tuple(arguments), returns)


def of_items(handler: Handler, task: str, *, check: bool = True) -> tuple[Handler, type]:
    """What one item of a batch handler's list is, as if it were the argument of a plain handler.

    Arguments:
        handler: the batch handler's signature.
        task: the task's name, for errors.
        check: whether the items must be such as can be sent.

    Returns:
        A signature with one argument and one element of the returned list; and what the batch
        handler wants its items in, list or tuple.

    Raises:
        PolicyError: the handler does not take one list, or returns something else.
    """
    lists = [item for item in handler.arguments if item.required]
    if not any(item.positional for item in handler.arguments):  # like `print`, which takes *args
        lists += [item for item in handler.arguments if item.kind is Parameter.VAR_POSITIONAL]
    kind = _item_type(lists[0].type) if len(lists) == 1 else None
    if kind is None or lists[0].kind is Parameter.KEYWORD_ONLY:
        raise PolicyError(
            f"task {task!r}: a batch handler takes exactly one required parameter, a list[...], "
            f"Sequence[...] or tuple[..., ...] of items, by position; this one takes "
            f"{handler.described()}"
        )
    if check:
        carried(kind, f"task {task!r}: an item of parameter {lists[0].name!r}")
    item = Argument("item", Parameter.POSITIONAL_ONLY, kind, required=True)
    sequence = tuple if _bare(lists[0].type)[0] is tuple else list
    return Handler((item,), _item_returned(handler.returns, task)), sequence


def check_handler(handler: Handler, task: str) -> None:
    """Check that a handler's arguments and result can be sent.

    Arguments:
        handler: its signature.
        task: the task's name, for errors.

    Raises:
        PolicyError: one cannot.
    """
    for item in handler.arguments:
        carried(item.type, f"task {task!r}: parameter {item.name!r}")
    if handler.returns not in NOTHING:
        carried(handler.returns, f"task {task!r}: the result")


def carried(annotation: Any, what: str) -> None:
    """Check that values of a type can be sent.

    Arguments:
        annotation: the type.
        what: what is annotated, for errors.

    Raises:
        PolicyError: they cannot; says why, and what can.
    """
    try:
        decoder(annotation)
        unknown = next(_foreign(annotation), None)
    except Exception as error:  # a user's metaclass or __class_getitem__ may raise what it likes
        raise PolicyError(
            f"{what}: {shown(annotation)} cannot be sent: {error}; {SUPPORTED}"
        ) from error
    if unknown is not None:
        inside = "" if unknown is annotation else f", because of {shown(unknown)} in it"
        raise PolicyError(f"{what}: {shown(annotation)} cannot be sent{inside}; {SUPPORTED}")


def _item_returned(returns: Any, task: str) -> Any:
    if returns in NOTHING:
        return returns
    lists = [returns]
    if get_origin(returns) in (Union, UnionType):
        lists = [member for member in get_args(returns) if member is not NoneType]
    kind = _item_type(lists[0]) if len(lists) == 1 else None
    if kind is None:
        raise PolicyError(
            f"task {task!r}: a batch handler returns a list with one result per item, or None, "
            f"not {shown(returns)}"
        )
    return kind


def _item_type(annotation: Any) -> Any:
    """The type of a list's items: Any when it is not told, None when this is no list."""
    origin, inner = _bare(annotation)
    if origin in (Any, object):
        return Any
    if origin not in SEQUENCES:
        return None
    if not inner:
        return Any
    if origin is tuple and (len(inner) != 2 or inner[1] is not Ellipsis):
        return None
    return inner[0]


def _bare(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """A generic type and its parameters, without what is wrapped around them."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__"):  # `type Orders = list[Order]`
            annotation = annotation.__value__
        else:
            return get_origin(annotation) or annotation, get_args(annotation)


def _required(parameter: Parameter) -> bool:
    variable = parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return parameter.default is Parameter.empty and not variable


def _foreign(annotation: Any) -> Iterator[Any]:
    """The classes inside a type that neither msgspec nor our hooks know."""
    seen: set[int] = set()
    todo: list[Any] = [type_info(annotation)]
    while todo:
        node = todo.pop()
        if isinstance(node, tuple):
            todo.extend(node)
        elif isinstance(node, CustomType):
            if not hooked(node.cls):
                yield node.cls
        # A recursive type contains itself.
        elif isinstance(node, (Type, Field)) and id(node) not in seen:
            seen.add(id(node))
            todo.extend(getattr(node, name) for name in node.__struct_fields__)


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
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_globals is self.outer and frame.f_code.co_qualname in around:
                self.inner = {**frame.f_locals, **self.inner}
            frame = frame.f_back
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
            function = vars(function).get("__init__", object.__init__)
        elif not hasattr(function, "__globals__") and hasattr(type(function).__call__, "__code__"):
            function = type(function).__call__
        else:
            return function
