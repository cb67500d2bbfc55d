"""Codecs that users supply."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import Ext

from taskyard import Batch, Codec, Keys, Yard
from taskyard.brokers.inboxes import Misfit
from taskyard.errors import CannotOpen, PayloadError, PolicyError
from taskyard.message import read_envelope
from taskyard.packing import Packing
from taskyard.supplied import codec_of
from taskyard.worker.inbox import Reader

ID = "0123456789abcdef"
OPTIONS: list[Any] = [{}, {"keys": Keys({"k": bytes(32)}), "compression": "zlib"}]


class Point:
    """Taskyard cannot send it."""

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def plain(value: Any) -> Any:
    if isinstance(value, Point):
        return {"point": [value.x, value.y]}
    raise TypeError(f"no {type(value).__name__}")


def pointed(value: dict[str, Any]) -> Any:
    return Point(*value["point"]) if value.keys() == {"point"} else value


class Json:
    """A codec as somebody could write it."""

    def __init__(self, name: str = "json") -> None:
        self.name = name

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        return json.dumps([list(args), dict(kwargs)], default=plain).encode()

    def decode(self, data: bytes) -> tuple[Sequence[Any], Mapping[str, Any]]:
        args, kwargs = json.loads(data, object_hook=pointed)
        return args, kwargs

    def encode_result(self, value: Any) -> bytes:
        return json.dumps(value, default=plain).encode()

    def decode_result(self, data: bytes) -> Any:
        return json.loads(data, object_hook=pointed)


def move(point: Point, by: int = 1, *, twice: bool = False) -> Point:
    return point


def subject(function: Any = move, *, batch: bool = False, **options: Any) -> Any:
    given = {"codecs": [Json()], **options}
    return codec_of(function, task="move", batch=batch, skip_self=False, packing=Packing(**given))


@given(x=st.integers(), by=st.none() | st.integers(), twice=st.booleans())
def test_a_call_comes_out_as_it_went_in(x: int, by: int | None, twice: bool) -> None:
    named = {"twice": twice} if twice else {}
    args = (Point(x, 2),) if by is None else (Point(x, 2), by)
    for options in OPTIONS:
        made = subject(**options)
        body = made.encode(ID, args, named, group_task="move")
        assert made.decode(body) == (ID, args, named)
        envelope = read_envelope(body)
        assert envelope is not None
        assert (envelope.id, envelope.task, type(envelope.payload)) == (ID, "move", Ext)


@given(value=st.none() | st.integers() | st.builds(Point, st.integers(), st.integers()))
def test_a_result_comes_out_as_it_went_in(value: Any) -> None:
    for options in OPTIONS:
        made = subject(**options)
        assert made.decode_result(made.encode_result(value, ID), ID) == value


def test_arguments_by_name_are_moved_to_their_positions() -> None:
    made = subject()
    call = made.decode(made.encode(ID, (), {"twice": True, "point": Point(1, 2)}))
    assert call == (ID, (Point(1, 2),), {"twice": True})
    for args, kwargs, said in (
        ((), {}, "missing a required argument: 'point'"),
        ((1, 2, 3), {}, "too many positional"),
        ((1,), {"speed": 5}, "unexpected keyword argument 'speed'"),
    ):
        with pytest.raises(PayloadError, match=said):
            made.encode(ID, args, kwargs)


def test_items_of_a_batch() -> None:
    def store(points: tuple[Point, ...]) -> list[Point]:
        return list(points)

    made = subject(store, batch=True)
    bodies = made.encode_many(["a", "b"], [Point(1, 2), Point(3, 4)])
    assert [made.decode_item(body) for body in bodies] == [("a", Point(1, 2)), ("b", Point(3, 4))]
    assert made.sequence is tuple
    assert made.keeps_results
    with pytest.raises(PayloadError, match=r"item 1: task 'move': codec 'json': TypeError: no set"):
        made.encode_many(["a", "b"], [Point(1, 2), {1}])


def test_what_the_codec_raises_and_returns() -> None:
    class Wrong(Json):
        def encode(self, args: Any, kwargs: Any) -> Any:
            return "text"

        def decode(self, data: bytes) -> Any:
            return 5

        def encode_result(self, value: Any) -> Any:
            return None

        def decode_result(self, data: bytes) -> Any:
            raise KeyError("x")

    wrong = subject(codecs=[Wrong()])
    with pytest.raises(PayloadError, match="codec 'json': it made 'text', which is not bytes"):
        wrong.encode(ID, (1,), {})
    with pytest.raises(PayloadError, match="task 'move': codec 'json': TypeError"):
        wrong.decode(subject().encode(ID, (1,), {}))
    with pytest.raises(PayloadError, match="task 'move': the result: it made None"):
        wrong.encode_result(1, ID)
    with pytest.raises(PayloadError, match="codec 'json': KeyError: 'x'"):
        wrong.decode_result(subject().encode_result(1, ID), ID)


def test_what_it_could_not_decode_is_refused_at_once() -> None:
    class OneWay(Json):
        def decode(self, data: bytes) -> Any:
            raise ValueError("cannot")

    with pytest.raises(PayloadError, match="task 'move': codec 'json': ValueError: cannot"):
        subject(codecs=[OneWay()]).encode(ID, (1,), {})


def test_the_limit_holds_for_it_too() -> None:
    with pytest.raises(PayloadError, match="task 'move': the message has"):
        subject(limit=100).encode(ID, ("x" * 100,), {})
    with pytest.raises(PayloadError, match="task 'move': the result has"):
        subject(limit=100).encode_result("x" * 100, ID)


# Others than the one that reads


def test_another_codec_is_an_error_and_no_garbage() -> None:
    body = subject().encode(ID, (1,), {})
    result = subject().encode_result(1, ID)
    for reader, known in ((subject(codecs=[Json("other")]), "'other'"), (untyped(), "none")):
        said = rf"task 'move': it is encoded by the codec 'json', .* \(known are: {known}\)"
        with pytest.raises(CannotOpen, match=said):
            reader.decode(body)
        with pytest.raises(CannotOpen, match=said):
            reader.decode_result(result, ID)


def untyped() -> Any:
    def move(point: Any) -> Any: ...

    return subject(move, codecs=[])


def test_codecs_are_rotated() -> None:
    old, rotated = subject(), subject(codecs=[Json("new"), Json()])
    assert rotated.decode(old.encode(ID, (1,), {}))[1] == (1,)
    assert rotated.decode_result(old.encode_result(1, ID), ID) == 1
    envelope = read_envelope(rotated.encode(ID, (1,), {}))
    assert envelope is not None
    assert envelope.payload.data.startswith(b"\x03new")


def test_what_was_encoded_without_a_codec_is_read_by_the_types() -> None:
    def save(number: int) -> None: ...

    before = subject(save, codecs=[]).encode(ID, (1,), {})
    assert subject(save).decode(before) == (ID, (1,), {})
    body = msgspec.msgpack.encode([ID, ["text"]])
    with pytest.raises(PayloadError, match="argument 'number': Expected `int`, got `str`"):
        subject(save).decode(body)
    with pytest.raises(
        PayloadError, match=r"encoded without a codec, and cannot be read so: .*Poi"
    ):
        subject().decode(before)


# Yards


def test_a_codec_of_a_yard_and_of_a_task() -> None:
    yard = Yard("memory://", codec=Json("yards"))

    @yard.task(name="a")
    def a(point: Point) -> Point:
        return point

    @yard.task(name="b", codec=[Json("own"), Json()])
    def b(point: Point) -> Point:
        return point

    @yard.task(name="c", codec=())
    def c(number: int) -> None: ...

    with pytest.raises(PolicyError, match="Point` cannot be sent"):
        yard.task(name="d", codec=())(a.function)
    made = {task.name: task.codec.encode(ID, (1,), {}) for task in (a, b, c)}
    assert b"\x05yards" in made["a"]
    assert b"\x03own" in made["b"]
    assert read_envelope(made["c"]).payload == [1]  # type: ignore[union-attr]
    # What other tasks encode by the yard's codec, all of its tasks can read.
    assert c.codec.decode(made["a"])[1] == (1,)
    assert b"\x03own" in yard.remote("b", codec=Json("own")).codec.encode(ID, (1,), {})


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        (5, "5 is no codec: it has no encode, decode, encode_result, decode_result"),
        (Json, "is no codec: it is a class"),
        ([Json(), Json()], "two codecs have the same name"),
        (Json(""), "the name of a codec must be"),
        (Json("x" * 51), "the name of a codec must be"),
        (Json(5), "the name of a codec must be"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_codec(codec: Any, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        Yard("memory://", codec=codec)
    with pytest.raises(PolicyError, match=said):
        Yard("memory://").task(name="t", codec=codec)(move)


def test_the_shard_by_an_arguments_name() -> None:
    task = Yard("memory://").task(name="t", codec=Json(), shard="by")(move)
    assert task.options().put_of_call((Point(1, 2),), {"by": 7}).shard == "7"
    assert task.options().put_of((Point(1, 2), 7)).shard == "7"


@pytest.mark.parametrize("shard", ["x", lambda point: point.x])
def test_the_shard_of_an_item(shard: Any) -> None:
    def store(points: list[Point]) -> None: ...

    task = Yard("memory://").task(name="t", codec=Json(), shard=shard, batch=Batch())(store)
    assert task.options().put_of_call((Point(7, 8),), {}).shard == "7"
    # From elsewhere it comes as plain data, and its shard is made of what the handler gets.
    assert task.options().put_of({"point": [7, 8]}).shard == "7"


def test_what_others_push_goes_through_the_codec() -> None:
    class Picky(Json):
        def encode(self, args: Any, kwargs: Any) -> bytes:
            if args == ("bad",):
                raise ValueError("no")
            return super().encode(args, kwargs)

    yard = Yard("memory://")
    task = yard.task(name="t", codec=Picky())(move)
    reader = Reader("default", [task])
    put = reader.read(b'[{"point": [1, 2]}]')
    assert not isinstance(put, Misfit)
    assert task.codec.decode(put.bodies[0])[1] == (Point(1, 2),)
    refused = reader.read(b'["bad"]')
    assert isinstance(refused, Misfit)
    assert "codec 'json': ValueError: no" in refused.dead.failure.message


def test_it_is_a_codec() -> None:
    codec: Codec = Json()
    assert Packing(codecs=[codec]).codec is codec
