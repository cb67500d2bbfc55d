"""Payloads: what a handler's annotations let in, and what comes out of bytes from anywhere."""

from __future__ import annotations

import functools
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskyard.errors import PayloadError, PolicyError
from taskyard.message import Envelope, read_envelope
from taskyard.payload import PayloadCodec

if typing.TYPE_CHECKING:
    from nowhere import Absent  # type: ignore[import-not-found]

T = TypeVar("T")
ID = "0123456789abcdef"
pack = msgspec.msgpack.encode


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Size(IntEnum):
    S = 1
    L = 2


class Mood(StrEnum):
    FINE = "fine"


@dataclass
class Order:
    id: int
    name: str
    price: float = 0.0
    paid: bool = False


@dataclass
class Node:
    value: int
    children: list[Node] = field(default_factory=list)


@dataclass
class Box(Generic[T]):
    inside: T


class Point(NamedTuple):
    x: int
    y: int = 0


class Options(TypedDict, total=False):
    depth: int


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


@attrs.define
class Car:
    wheels: int
    colour: Colour = Colour.RED


class Model(pydantic.BaseModel):
    id: int = pydantic.Field(alias="ID")
    when: datetime
    homes: list[pydantic.HttpUrl] = []
    path: Path = Path("x")

    @pydantic.computed_field
    def twice(self) -> int:
        return 2 * self.id


class Strict(pydantic.BaseModel, extra="forbid"):
    count: int = pydantic.Field(alias="n", gt=0)


class TwoNames(pydantic.BaseModel, extra="forbid"):
    count: int = pydantic.Field(validation_alias="n", serialization_alias="m")


class Plain:
    pass


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


def codec(function: Callable[..., Any], *, batch: bool = False) -> PayloadCodec:
    return PayloadCodec.of(function, task="shop.save", batch=batch)


def of_type(annotation: Any) -> PayloadCodec:
    def handler(value): ...  # type: ignore[no-untyped-def]

    handler.__annotations__ = {"value": annotation}
    return codec(handler)


def trip(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    subject = codec(function)
    got_id, *call = subject.decode(subject.encode(ID, args, kwargs))
    assert got_id == ID
    return tuple(call)


def body(payload: Any) -> bytes:
    return pack([ID, payload, ""])


# ---------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 2**64 - 1),
        (int, -(2**63)),
        (float, float("inf")),
        (bool, True),
        (None, None),
        (bytes, b"\x00\xff"),
        (bytearray, bytearray(b"ab")),
        (datetime, datetime(2024, 2, 29, 1, 2, 3, 4)),  # noqa: DTZ001
        (datetime, datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=5)))),
        (date, date(1, 1, 1)),
        (time, time(1, 2, 3, 4)),
        (timedelta, timedelta(days=-1, microseconds=1)),
        (Decimal, Decimal("1E+900")),
        (UUID, UUID(int=5)),
        (Colour, Colour.BLUE),
        (Size, Size.L),
        (Mood, Mood.FINE),
        (Path, Path("/a/b")),
        (Path | None, Path("/a")),
        (PurePosixPath, PurePosixPath("a")),
        (list[Path], [Path("a"), Path("b")]),
        (Literal["a", "b"], "b"),
        (Literal[3, 4], 3),
        (int | str | None, "x"),
        (Cat | Dog, Dog("Rex")),
        (Car, Car(4, Colour.BLUE)),
        (Order, Order(1, "x")),
        (Order | None, None),
        (Box[Order], Box(Order(1, "x"))),
        (Box[list[int]], Box([1])),
        (Node, Node(1, [Node(2), Node(3, [Node(4)])])),
        (Point, Point(1, 2)),
        (Options, {"depth": 2}),
        (dict[int, str], {1: "a"}),
        (dict[tuple[int, int], Point], {(1, 2): Point(3)}),
        (dict[UUID, set[int]], {UUID(int=5): {1, 2}}),
        (frozenset[str], frozenset({"a"})),
        (tuple[int, str], (1, "a")),
        (tuple[int, ...], (1, 2)),
        (Sequence[int], [1, 2]),
        (Mapping[str, Order], {"a": Order(1, "b")}),
        (Annotated[int, msgspec.Meta(ge=0)], 3),
        (object, [1, {"a": None}]),
        (list[object], [1, "a"]),
        (Any, {1: [2.5, b"x"]}),
        (T, "a"),
    ],
)
def test_values_come_back_equal_and_of_their_type(annotation: Any, value: Any) -> None:
    subject = of_type(annotation)
    _, (got,), named = subject.decode(subject.encode(ID, (value,), {}))
    assert (got, type(got), named) == (value, type(value), {})


def test_nan_comes_back() -> None:
    ((got,), _) = trip(lambda x: x, float("nan"))
    assert got != got


def test_plain_data_comes_back_as_msgpack_has_it() -> None:
    assert trip(lambda x: x, (1, (2,), Point(3))) == (([1, [2], [3, 0]],), {})
    assert trip(lambda x: x, Path("a")) == (("a",), {})
    assert trip(lambda x: x, Order(1, "a")) == (
        ({"id": 1, "name": "a", "price": 0.0, "paid": False},),
        {},
    )


def test_classes_derived_from_plain_types_are_sent_as_these() -> None:
    class Number(int):
        def __int__(self) -> int:
            return 99

    class Share(float):
        pass

    class Data(bytes):
        pass

    ((got,), _) = trip(lambda x: x, [Text("a"), Number(3), Share(0.5), Data(b"b")])
    assert got == ["a", 3, 0.5, b"b"]
    assert [type(item) for item in got] == [str, int, float, bytes]


@pytest.mark.parametrize("annotation", [Model, list[Model], dict[str, Model], Box[Model | None]])
def test_pydantic_models_come_back_wherever_they_are(annotation: Any) -> None:
    model = Model(ID=3, when=datetime(2024, 1, 1, tzinfo=UTC), homes=["https://a.example/x"])  # type: ignore[list-item]
    value = {Model: model, list[Model]: [model], dict[str, Model]: {"a": model}}.get(
        annotation, Box(model)
    )
    subject = of_type(annotation)
    assert subject.decode(subject.encode(ID, (value,), {}))[1] == (value,)


def test_pydantic_models_are_validated() -> None:
    subject = of_type(Strict)
    model = Strict(n=3)
    assert subject.decode(subject.encode(ID, (model,), {}))[1] == (model,)
    bad = r"argument 'value': n: Input should be greater than 0; given \{'n': 0\}"
    with pytest.raises(PayloadError, match=bad):
        subject.encode(ID, ({"n": 0},), {})
    with pytest.raises(PayloadError, match="argument 'value'"):
        subject.decode(body(["x"]))


@pytest.mark.skipif(
    tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 11),
    reason="models are read by alias only",
)
def test_pydantic_models_may_be_written_by_another_alias_than_they_are_read() -> None:
    subject = of_type(TwoNames)
    model = TwoNames(n=3)  # type: ignore[call-arg]
    assert subject.decode(subject.encode(ID, (model,), {}))[1] == (model,)


def test_pydantic_is_not_imported_by_us() -> None:
    code = (
        "import sys; from taskyard.payload import PayloadCodec\n"
        "def f(a: int) -> str: ...\n"
        "c = PayloadCodec.of(f, task='f', batch=False); c.decode(c.encode('x', (1,), {}))\n"
        "assert not {'pydantic', 'attr', 'attrs'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


finite = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(-9, 9), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.lists(finite, max_size=4), st.dictionaries(st.text(), finite, max_size=3))
def test_any_plain_data_comes_back(args: list[Any], kwargs: dict[str, Any]) -> None:
    def handler(*args: Any, **kwargs: Any) -> None: ...

    assert trip(handler, *args, **kwargs) == (tuple(args), kwargs)


@dataclass
class Everything:
    a: int = 0
    b: float = 0.0
    c: str = ""
    d: datetime | None = None
    e: timedelta = timedelta()
    f: Decimal = Decimal(0)
    g: UUID | None = None
    h: tuple[date, time] | None = None
    i: dict[int, list[Point]] = field(default_factory=dict)
    j: Colour = Colour.RED
    k: Node | None = None
    m: set[bytes] = field(default_factory=set)


nodes = st.recursive(
    st.builds(Node, st.integers(0, 9)),
    lambda inner: st.builds(Node, st.integers(0, 9), st.lists(inner, max_size=3)),
    max_leaves=8,
)
int64 = st.integers(-(2**63), 2**63)
every = st.builds(
    Everything,
    a=int64,
    b=st.floats(allow_nan=False),
    c=st.text(),
    d=st.none()
    | st.datetimes()
    | st.datetimes(
        datetime(2, 1, 1),  # noqa: DTZ001
        datetime(9998, 1, 1),  # noqa: DTZ001
        timezones=st.just(timezone(timedelta(hours=-7))),
    ),
    e=st.timedeltas(),
    f=st.decimals(allow_nan=False),
    g=st.none() | st.uuids(),
    h=st.none() | st.tuples(st.dates(), st.times()),
    i=st.dictionaries(int64, st.lists(st.builds(Point, int64, int64), max_size=2), max_size=2),
    j=st.sampled_from(Colour),
    k=nodes,
    m=st.sets(st.binary(), max_size=3),
)


@given(every, st.none() | st.integers(0, 5))
def test_typed_data_comes_back(value: Everything, times: int | None) -> None:
    def handler(value: Everything, times: int | None = 3) -> None: ...

    def batch(values: list[Everything]) -> list[Everything]: ...

    assert trip(handler, value, times) == ((value, times), {})
    assert trip(handler, value) == ((value,), {})
    subject = codec(batch, batch=True)
    assert subject.decode_item(subject.encode_item(ID, value)) == (ID, value)
    assert subject.decode_result(subject.encode_result(value)) == value


# --------------------------------------------------------------------------------------- refusals


def refusal(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(PayloadError) as caught:
        codec(function).encode(ID, args, kwargs)
    text = str(caught.value)
    assert text.startswith("task 'shop.save': ")
    assert len(text) < 600
    return text.removeprefix("task 'shop.save': ")


def one(order: Order, note: str = "") -> None: ...


def test_what_does_not_fit_is_refused_when_enqueued() -> None:
    assert refusal(one, 5) == "argument 'order': Expected `object`, got `int`; given 5"
    assert refusal(one, Order(1, 2)) == (  # type: ignore[arg-type]
        "argument 'order': Expected `str`, got `int` - at `$.name`; "
        "given Order(id=1, name=2, price=0.0, paid=False)"
    )
    assert refusal(one, Order(1, "a"), note=3).startswith("argument 'note': Expected `str`")
    assert "given ['xxx" in refusal(one, ["x" * 10_000] * 10_000)


def test_calls_that_python_would_refuse_are_refused() -> None:
    takes = "; it takes (order, note=...)"
    assert refusal(one) == "missing a required argument: 'order'" + takes
    assert refusal(one, 1, 2, 3) == "too many positional arguments" + takes
    assert refusal(one, Order(1, ""), x=3) == "got an unexpected keyword argument 'x'" + takes
    assert refusal(one, Order(1, ""), order=3) == "multiple values for argument 'order'" + takes
    assert refusal(lambda *, key: 0).startswith("missing a required")
    assert refusal(lambda *, key: 0, 1).startswith("too many positional")
    assert refusal(lambda a, /: 0, a=1)


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@dataclass
class Wild:
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise Unspeakable


def circle() -> list[Any]:
    items: list[Any] = []
    items.append({"a": items})
    return items


def deep(depth: int) -> list[Any]:
    items: list[Any] = []
    for _ in range(depth):
        items = [items]
    return items


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**64, "a whole number beyond 64 bits"),
        ([10**10_000], "a whole number beyond 64 bits"),
        ([-(2**63) - 1], "a whole number beyond 64 bits"),
        (circle(), "nested too deeply, or contains itself"),
        (deep(100_000), "nested too deeply, or contains itself"),
        ("\ud800", "not valid Unicode"),
        (Path("\udcff"), "not valid Unicode"),
        (Plain(), r"objects of `\S*Plain` cannot be sent"),
        (Unprintable(), r"objects of `\S*Unprintable` cannot be sent"),
        (1 + 2j, "objects of `complex` cannot be sent"),
        (iter(()), "cannot be sent"),
        (int, "objects of `type` cannot be sent"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))), "out of range"),
    ],
)
def test_what_msgpack_cannot_carry_is_refused(value: Any, text: str) -> None:
    subject = codec(lambda x: x)
    with pytest.raises(PayloadError, match=text):
        subject.encode(ID, (value,), {})
    with pytest.raises(PayloadError, match=f"item 1: .*argument 'x': .*{text}"):
        subject.encode_many([ID, ID], [1, value])


@pytest.mark.parametrize("value", [2**64, circle(), "\ud800", Plain(), Unprintable(), [10**10_000]])
def test_results_that_msgpack_cannot_carry_are_refused(value: Any) -> None:
    with pytest.raises(PayloadError, match=r"^task 'shop\.save': the result: .*; given "):
        codec(lambda: 0).encode_result(value)


def test_a_bad_id_is_no_argument() -> None:
    with pytest.raises(PayloadError, match="the call cannot be encoded"):
        codec(one).encode("\ud800", (Order(1, "a"),), {})


def test_errors_of_the_users_classes_are_payload_errors() -> None:
    subject = of_type(Wild)
    wild = Wild(1)
    wild.x = -1
    text = r"argument 'value': \S*Unspeakable: \(its text could not be made: RuntimeError\)"
    with pytest.raises(PayloadError, match=text) as caught:
        subject.encode(ID, (wild,), {})
    assert isinstance(caught.value.__cause__, Unspeakable)
    with pytest.raises(PayloadError, match=text):
        subject.decode(body([{"x": -1}]))


# ------------------------------------------------------------------------------------ signatures


def wide(a: int, b: int = 2, *, c: str = "", d: float = 0.0) -> None: ...


def open_(a: int, /, *rest: str, key: bool = False, **more: Order) -> None: ...


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "decoded"),
    [
        (wide, (1,), {}, ((1,), {})),
        (wide, (), {"b": 3, "a": 1}, ((1, 3), {})),
        (wide, (1,), {"c": "x"}, ((1,), {"c": "x"})),
        (wide, (1, 5), {"d": 2}, ((1, 5), {"d": 2.0})),
        (lambda a, b=1, c=2: 0, (1,), {"c": 5}, ((1,), {"c": 5})),
        (lambda a=0, b=1: 0, (), {"b": 5}, ((), {"b": 5})),
        (lambda a=0, b=1: 0, (), {}, ((), {})),
        (lambda: 0, (), {}, ((), {})),
        (lambda *, key: 0, (), {"key": 1}, ((), {"key": 1})),
        (open_, (1, "a", "b"), {}, ((1, "a", "b"), {})),
        (open_, (1,), {"key": True}, ((1,), {"key": True})),
        (open_, (1, "a"), {"o": Order(1, "x")}, ((1, "a"), {"o": Order(1, "x")})),
        (open_, (1,), {"a": Order(1, "x")}, ((1,), {"a": Order(1, "x")})),
        (open_, (1,), {"rest": Order(1, "x")}, ((1,), {"rest": Order(1, "x")})),
        (open_, (1,), {"": Order(1, "x")}, ((1,), {"": Order(1, "x")})),
        (print, (1, "a"), {}, ((1, "a"), {})),
        (print, (1,), {"sep": "-"}, ((1,), {"sep": "-"})),
        (max, (1, 2), {}, ((1, 2), {})),
        (functools.partial(wide, 1), (), {"c": "x"}, ((), {"c": "x"})),
    ],
)
def test_calls_come_back(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], decoded: Any
) -> None:
    assert trip(function, *args, **kwargs) == decoded


def test_types_are_checked_in_every_kind_of_parameter() -> None:
    assert refusal(wide, 1, c=3).startswith("argument 'c': Expected `str`")
    assert refusal(wide, "1", c="").startswith("argument 'a': Expected `int`")
    assert refusal(open_, 1, 2).startswith("a value of '*rest': Expected `str`")
    assert refusal(open_, 1, x=2).startswith("a value of '**more': Expected `object`")
    assert refusal(open_, 1, key=2).startswith("argument 'key': Expected `bool`")


def test_the_worker_and_not_the_producer_sets_defaults() -> None:
    old, new = codec(lambda a, b=1: 0), codec(lambda a, b=2, c=3: 0)
    assert new.decode(old.encode(ID, (1,), {})) == (ID, (1,), {})
    assert new.decode(old.encode(ID, (1, 5), {})) == (ID, (1, 5), {})


def test_messages_of_newer_and_older_producers_are_refused_with_a_reason() -> None:
    old, new = codec(lambda a, b=1: 0), codec(lambda a, b, c: 0)
    with pytest.raises(PayloadError, match=r"3 arguments .* takes \(a, b=\.\.\.\); .* newer code"):
        old.decode(new.encode(ID, (1, 2, 3), {}))
    with pytest.raises(PayloadError, match=r"argument 'c' is missing, .* older code"):
        new.decode(old.encode(ID, (1, 2), {}))
    keyword = codec(lambda *, k, z=1: 0)
    with pytest.raises(PayloadError, match=r"argument 'k', but .* newer code"):
        old.decode(keyword.encode(ID, (), {"k": 1}))
    with pytest.raises(PayloadError, match="argument 'k' is missing"):
        keyword.decode(body({"z": 1}))
    with pytest.raises(PayloadError, match="argument 'a' by position and by name"):
        old.decode(body({0: [1], "a": 2}))
    with pytest.raises(PayloadError, match="argument 7"):
        codec(open_).decode(body({0: [1], 7: 2}))
    with pytest.raises(PayloadError, match="argument 'a' is missing"):
        codec(open_).decode(body({"a": {"id": 1, "name": ""}}))


def test_a_default_object_is_left_to_the_worker() -> None:
    nothing = object()
    subject = codec(lambda a, b=nothing: 0)
    assert subject.decode(subject.encode(ID, (1,), {})) == (ID, (1,), {})


def test_the_envelope_is_the_one_of_all_messages() -> None:
    subject = codec(wide)
    got = read_envelope(subject.encode(ID, (1,), {}, group_task="shop.save"))
    assert got == Envelope(ID, [1], "shop.save")
    got = read_envelope(subject.encode(ID, (1,), {"c": "x"}))
    assert got == Envelope(ID, {0: [1], "c": "x"}, "")


def test_methods_and_other_callables_are_handlers() -> None:
    class Handler:
        def run(self, a: int) -> str: ...

        def __call__(self, a: Order) -> None: ...

    method = PayloadCodec.of(Handler.run, task="t", batch=False, skip_self=True)
    assert method.single
    assert method.decode(method.encode(ID, (1,), {})) == (ID, (1,), {})
    assert trip(Handler().run, 1) == ((1,), {})
    assert trip(Handler(), Order(1, "a")) == ((Order(1, "a"),), {})

    @functools.wraps(one)
    def wrapped(*args: Any) -> None: ...

    assert trip(wrapped, Order(1, "a")) == ((Order(1, "a"),), {})


def test_annotations_may_name_what_is_local_to_the_function_around() -> None:
    @dataclass
    class Local:
        x: int

    def handler(a: Local, b: list[Local]) -> None: ...

    def all_(items: list[Local]) -> list[Local]: ...

    assert trip(handler, Local(1), [Local(2)]) == ((Local(1), [Local(2)]), {})
    subject = codec(all_, batch=True)
    assert subject.decode_item(subject.encode_item(ID, Local(1))) == (ID, Local(1))
    assert subject.decode_result(subject.encode_result(Local(1))) == Local(1)


# ------------------------------------------------------------------------------------ declarations


def callback(f: Callable[[], int]) -> None: ...


def hidden(a: int, b: Absent) -> None: ...


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Plain, r"parameter 'value': `\S*Plain` cannot be sent; supported are"),
        (list[Plain], r"cannot be sent, because of `\S*Plain` in it"),
        (Box[Plain], r"because of `\S*Plain` in it"),
        (Plain | None, r"because of `\S*Plain`"),
        (complex, "`complex` cannot be sent"),
        (Callable[[], int], "cannot be sent"),
        (Iterator[int], "cannot be sent"),
        (str | datetime, "more than one str-like type"),
        (str | Path, "custom type"),
        (Enum("Odd", {"A": (1, 2)}), "either all str or all int"),
    ],
)
def test_annotations_that_cannot_be_sent_are_refused(annotation: Any, text: str) -> None:
    with pytest.raises(PolicyError, match=f"(?s)task 'shop.save': .*{text}"):
        of_type(annotation)


def test_annotations_that_cannot_be_resolved_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"parameter 'b': annotation 'Absent' .*TYPE_CHECKING"):
        codec(hidden)


def test_results_that_cannot_be_sent_are_refused() -> None:
    def handler() -> Plain: ...

    with pytest.raises(PolicyError, match=r"the result: .*Plain.* cannot be sent"):
        codec(handler)


def test_single_is_for_exactly_one_parameter() -> None:
    assert codec(lambda a: 0).single
    assert codec(lambda a=1: 0).single
    assert not codec(lambda a, b=1: 0).single
    assert not codec(lambda: 0).single
    assert not codec(lambda *a: 0).single
    assert not codec(lambda *, a: 0).single
    assert codec(lambda items, dry=False: 0, batch=True).single


def returning(annotation: Any, *, batch: bool = False) -> PayloadCodec:
    def handler(items): ...  # type: ignore[no-untyped-def]

    handler.__annotations__ = {"return": annotation}
    return codec(handler, batch=batch)


def test_results_are_kept_unless_there_can_be_none() -> None:
    for annotation in (None, "None", typing.NoReturn, typing.Never, "typing.Never"):
        assert not returning(annotation).keeps_results
        assert not returning(annotation, batch=True).keeps_results
    for annotation in (int, Any, int | None, "Order"):
        assert returning(annotation).keeps_results
    assert codec(lambda: 0).keeps_results
    assert codec(print).keeps_results


def test_results_are_typed() -> None:
    subject = returning(Order | None)
    for value in (Order(1, "x"), None):
        assert subject.decode_result(subject.encode_result(value)) == value
    with pytest.raises(PayloadError, match=r"task 'shop.save': the result: Expected `object"):
        subject.decode_result(b"\x01")
    with pytest.raises(PayloadError, match="the result: "):
        subject.decode_result(b"")
    free = codec(lambda: 0)
    assert free.decode_result(free.encode_result((1, "a"))) == [1, "a"]


# ------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize(
    ("annotation", "sequence"),
    [
        (list[Order], list),
        (Sequence[Order], list),
        (tuple[Order, ...], tuple),
        (typing.List[Order], list),  # noqa: UP006
        (Annotated[list[Order], "x"], list),
        ("list[Order]", list),
    ],
)
def test_items_of_a_batch_are_typed(annotation: Any, sequence: type) -> None:
    def handler(items, dry=False): ...  # type: ignore[no-untyped-def]

    handler.__annotations__ = {"items": annotation}
    subject = codec(handler, batch=True)
    assert subject.sequence is sequence
    assert subject.decode_item(subject.encode_item(ID, Order(1, "a"))) == (ID, Order(1, "a"))
    with pytest.raises(
        PayloadError, match="argument 'item': Expected `object`, got `int`; given 5"
    ):
        subject.encode_item(ID, 5)


@pytest.mark.parametrize(
    "function",
    [lambda items: 0, lambda items, /: 0, lambda *items: 0, print, max],
    ids=["plain", "positional only", "star", "print", "max"],
)
def test_items_of_a_batch_without_annotation_are_plain_data(function: Callable[..., Any]) -> None:
    subject = codec(function, batch=True)
    for item in (1, None, "a", [1], {"a": 1}):
        assert subject.decode_item(subject.encode_item(ID, item)) == (ID, item)


def fits_star(*items: list[int]) -> None: ...


def star(*items: int) -> None: ...


def mixed(first: list[int], *items: int) -> None: ...


def mapping(items: dict[str, int]) -> None: ...


def pair(items: tuple[int, str]) -> None: ...


def scalar(items: int) -> None: ...


def two(items: list[int], more: int) -> None: ...


def by_name(*, items: list[int]) -> None: ...


def unsendable(items: list[Plain]) -> None: ...


def wrong(items: list[int]) -> int: ...


@pytest.mark.parametrize(
    "function", [star, mapping, pair, scalar, two, by_name, lambda: 0, unsendable, wrong]
)
def test_batch_handlers_take_and_return_one_list(function: Callable[..., Any]) -> None:
    with pytest.raises(PolicyError, match=r"task 'shop.save': "):
        codec(function, batch=True)


def test_a_batch_handler_may_have_parameters_that_are_never_given() -> None:
    assert codec(mixed, batch=True).decode_item(body([5])) == (ID, 5)
    assert codec(fits_star, batch=True).decode_item(body([5])) == (ID, 5)


def test_items_are_read_at_once_if_all_can_be() -> None:
    subject = codec(fits_star, batch=True)
    assert subject.decode_items([body([5]), body([6])]) == ([ID, ID], [5, 6])
    assert subject.decode_items([body([5]), body(["six"])]) is None
    assert subject.decode_items([body([5]), b"nothing"]) is None


def test_results_of_a_batch_are_typed_by_element() -> None:
    for annotation in (list[Order], tuple[Order, ...], list[Order] | None, Sequence[Order]):
        subject = returning(annotation, batch=True)
        assert subject.decode_result(subject.encode_result(Order(1, "a"))) == Order(1, "a")


def test_messages_of_a_plain_task_fit_when_it_becomes_a_batch_task() -> None:
    def plain(order: Order) -> None: ...

    def batch(orders: list[Order]) -> None: ...

    sent = codec(plain).encode(ID, (Order(1, "a"),), {})
    assert codec(batch, batch=True).decode_item(sent) == (ID, Order(1, "a"))


# ---------------------------------------------------------------------------------------- many


def test_many_are_the_same_as_one_by_one() -> None:
    ids = [f"{index:016}" for index in range(5)]
    subject = codec(wide)
    items: list[Any] = [(1,), [1, 2], {"a": 1}, {"a": 1, "c": "x"}, (3, 4)]
    calls = [((1,), {}), ((1, 2), {}), ((1,), {}), ((1,), {"c": "x"}), ((3, 4), {})]
    got = [subject.decode(data) for data in subject.encode_many(ids, items, group_task="t")]
    assert got == [(key, *call) for key, call in zip(ids, calls, strict=True)]
    batch = codec(lambda items: 0, batch=True)
    assert batch.encode_many(ids, range(5), group_task="t") == [
        batch.encode_item(key, item, group_task="t")
        for key, item in zip(ids, range(5), strict=True)
    ]
    keyword = codec(lambda *, a: 0)
    assert keyword.decode(*keyword.encode_many([ID], [{"a": 1}])) == (ID, (), {"a": 1})


def test_the_bad_one_of_many_is_named() -> None:
    with pytest.raises(PayloadError, match=r"^item 2: task 'shop.save': argument 'a': Expected"):
        codec(wide).encode_many([ID] * 4, [(1,), (2,), ("x",), (3,)])
    with pytest.raises(PayloadError, match=r"^item 1: .*must be a tuple .* given 'ab'$"):
        codec(wide).encode_many([ID] * 2, [(1,), "ab"])
    with pytest.raises(PayloadError, match=r"^item 0: .*keywords must be strings"):
        codec(wide).encode_many([ID], [{0: 1}])
    with pytest.raises(PayloadError, match=r"^item 1: .*argument 'item': Expected `object`"):
        batch_of_orders().encode_many([ID] * 2, [Order(1, ""), 2])


def batch_of_orders() -> PayloadCodec:
    def batch(orders: list[Order]) -> None: ...

    return codec(batch, batch=True)


def test_an_error_of_the_producers_own_iterator_is_left_alone() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        codec(lambda a: 0).encode_many([ID] * 2, items())


# ------------------------------------------------------------------------------- hostile bytes

CODECS = [
    codec(function)
    for function in (one, wide, open_, print, lambda: 0, lambda a, b=1: 0, lambda *, a: 0)
] + [
    of_type(annotation) for annotation in (Any, Node, Model, Path, dict[int, Any], Everything, Wild)
]

SAMPLES = [
    codec(one).encode(ID, (Order(1, "a"), "note"), {}),
    codec(open_).encode(ID, (1, "a"), {"key": True, "o": Order(1, "x")}),
    of_type(Node).encode(ID, (Node(1, [Node(2)]),), {}),
    of_type(Everything).encode(ID, (Everything(h=(date(2024, 1, 1), time(1))),), {}),
]


def decode_everywhere(data: bytes) -> None:
    texts: list[str] = []
    for subject in CODECS:
        for decode in (subject.decode, subject.decode_result):
            try:
                decode(data)
            except PayloadError as error:
                texts.append(str(error))
    assert all(len(text) < 600 for text in texts)


@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_but_payload_errors(data: bytes) -> None:
    decode_everywhere(data)


@given(finite)
def test_random_payloads_raise_nothing_but_payload_errors(payload: Any) -> None:
    decode_everywhere(body(payload))
    decode_everywhere(body([payload]))
    decode_everywhere(body({0: payload}))


@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_messages_raise_nothing_but_payload_errors(
    sample: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(sample) - 1))] = data.draw(st.integers(0, 255))
    decode_everywhere(bytes(damaged))
    decode_everywhere(bytes(damaged[: data.draw(st.integers(0, len(sample)))]))


@pytest.mark.parametrize("depth", [300, 3_000, 30_000, 3_000_000])
@pytest.mark.parametrize(
    "opening",
    [
        b"\x91",
        b"\x81\x01",
        b"\x81\xa1a",
        b"\x82\xa5value\x01\xa8children\x91",
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_deep_and_huge_claims_raise_nothing_but_payload_errors(opening: bytes, depth: int) -> None:
    bomb = opening * depth
    for data in (bomb, b"\x93\xa1a\x91" + bomb, b"\x93\xa1a\x91" + bomb + b"\x01" + b"\xa0"):
        decode_everywhere(data)


@pytest.mark.parametrize(
    "claim",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
)
def test_a_claimed_length_reserves_no_memory(claim: bytes) -> None:
    for data in (claim, b"\x93\xa1a" + claim, b"\x93\xa1a\x91" + claim):
        for subject in CODECS:
            with pytest.raises(PayloadError):
                subject.decode(data)


def test_a_broken_message_says_that_it_is_none() -> None:
    for data in (
        b"",
        b"\xc1",
        SAMPLES[0][:-3],
        SAMPLES[0] + b"\x00",
        pack({"id": 1}),
        pack([1, []]),
    ):
        with pytest.raises(PayloadError, match=r"task 'shop.save': this is no message: "):
            codec(one).decode(data)
    with pytest.raises(PayloadError, match="not valid Unicode"):
        codec(one).decode(b"\x93\xa1\xff\x90\xa0")


def test_nothing_from_the_wire_chooses_a_class() -> None:
    subject = of_type(Cat | Dog)
    with pytest.raises(PayloadError, match="Invalid value 'Plain'"):
        subject.decode(body([{"type": "Plain", "lives": 3}]))
    untyped = of_type(Any)
    assert untyped.decode(body([{"type": "Cat", "lives": 3}]))[1] == ({"type": "Cat", "lives": 3},)
