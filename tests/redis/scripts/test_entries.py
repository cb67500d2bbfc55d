"""shared/entry.lua and shared/envelope.lua: what they write, Python reads; and the other way."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.redis.scripts.container import Entry, read_entry
from tests.redis.scripts.fragments import Fragment, text_of
from tests.servers.server import RedisServer

from taskyard.brokers.base import Delivery, Group
from taskyard.brokers.redis.replies import read_claim
from taskyard.message import Envelope, packed_headers, read_envelope, with_headers

MANY = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
UTC = dt.UTC

sequences = st.integers(1, 2**53 - 1)
counts = st.integers(0, 3) | st.integers(0, 2**32 - 1)
marks = st.just(b"") | st.text(min_size=1, max_size=20).map(str.encode)
expiries = st.just(0) | st.integers(1, 2**53 - 1)
bodies = st.binary(max_size=40) | st.text(max_size=40).map(
    lambda id_: msgspec.msgpack.encode((id_, None))
)
fresh = st.builds(
    lambda sequence, recorded, body, mark, expires: Entry(
        sequence, sequence, 0, 0, 0, 0, recorded, body, mark, expires
    ),
    sequences,
    st.booleans(),
    bodies,
    marks,
    expiries,
)
old = st.builds(
    Entry,
    sequences,
    sequences,
    st.integers(1, 2**32 - 1),
    counts,
    counts,
    counts,
    st.booleans(),
    bodies,
    marks,
    expiries,
)


@pytest.fixture
def writing(redis_server: RedisServer) -> Fragment:
    return Fragment(
        redis_server.client(),
        "entry",
        """
        local message = {sequence = case[1], since = case[2], deliveries = case[3],
            attempts = case[4], losses = case[5], cap = case[6], recorded = case[7],
            body = case[8], mark = case[9] ~= '' and case[9] or nil,
            expires = (case[10] or 0) > 0 and case[10] or nil}
        return write_entry(message)
        """,
        head=text_of("shared/fresh"),
    )


@pytest.fixture
def reading(redis_server: RedisServer) -> Fragment:
    return Fragment(
        redis_server.client(),
        "entry",
        """
        local entry = case[1]
        local message = read_entry(entry)
        assert(entry_sequence(entry) == message.sequence)
        assert(entry_body_size(entry) == #message.body)
        assert(write_entry(message) == entry)
        if message.mark then
            assert(entry_mark(entry) == message.mark)
            assert(entry_mode(entry) == message.mark:byte(1))
            assert(entry_id(entry) == body_id(message.body))
        end
        return {message.sequence, message.since, message.deliveries, message.attempts,
            message.losses, message.cap, message.recorded and 1 or 0, message.body,
            message.mark or '', message.expires or 0}
        """,
        head=text_of("shared/fresh"),
    )


def as_text(data: bytes) -> msgspec.Raw:
    """Packed as text, whatever it is: scripts cannot unpack bytes."""
    return msgspec.Raw(b"\xdb" + len(data).to_bytes(4, "big") + data)


@MANY
@given(st.lists(fresh | old, min_size=1, max_size=10))
def test_what_scripts_write_is_read(
    writing: Fragment, reading: Fragment, entries: list[Entry]
) -> None:
    written = writing(
        *(
            (*entry[:7], as_text(entry.body), as_text(entry.mark), entry.expires)
            for entry in entries
        )
    )
    assert [*map(read_entry, written)] == entries
    parts = msgspec.msgpack.encode([["s", "", 0, len(entries)]])
    claim = read_claim([9, b"q\0t", 5, parts, *written], Group("q", "t"), 9)
    assert [delivery for _, delivery in claim.lanes[0].messages] == [
        Delivery(*entry[:6], entry.body, entry.mark.decode(), entry.expires) for entry in entries
    ]
    assert reading(*([as_text(data)] for data in written)) == [[*entry] for entry in entries]


def test_a_fresh_entry_has_nothing_but_its_body(writing: Fragment) -> None:
    (data,) = writing((5, 5, 0, 0, 0, 0, False, as_text(b"body"), ""))
    assert data == b"\0\0\0\0\0\0\0\5\0body"
    (data,) = writing((5, 5, 0, 0, 0, 0, True, as_text(b""), ""))
    assert data == b"\0\0\0\0\0\0\0\5\2"


# Ids and tasks in bodies


@pytest.fixture
def ids(redis_server: RedisServer) -> Fragment:
    head = text_of("shared/fresh")
    return Fragment(redis_server.client(), "entry", "return body_id(case[1])", head=head)


@pytest.fixture
def tasks(redis_server: RedisServer) -> Fragment:
    return Fragment(
        redis_server.client(),
        "envelope",
        "return body_task(case[1])",
        head=text_of("shared/fresh") + text_of("shared/entry"),
    )


LENGTHS = [0, 1, 16, 30, 31, 32, 33, 200, 255, 256, 257, 65_535]


@pytest.mark.parametrize(
    "rest", [(None,), ({"a": [1, b"2"]}, "task"), ([1], "task", {"traceparent": "00-1"})]
)
def test_ids_of_every_length(ids: Fragment, rest: tuple[Any, ...]) -> None:
    texts = ["x" * length for length in LENGTHS]
    bodies = [msgspec.msgpack.encode((text, *rest)) for text in texts]
    assert ids(*([as_text(body)] for body in bodies)) == [text.encode() for text in texts]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x92",
        b"\x93",
        b"\x92\xa1",
        b"\x92\xd9",
        b"\x92\xd9\x01",
        b"\x92\xda\x00",
        b"\x92\xda\x00\x01",
        b"\x92\xdb\x00\x00\x00\x01x\x00",
        b"\x92\xc4\x01x\x00",
        b"\x92\x01\x01",
        b"\x91\xa1x",
        b"\x95\xa1x\x00\x00\x00\x00",
        b"\x82\xa1x\x00\xa1y\x00",
        b"not an envelope",
        b"\xff" * 9,
    ],
)
def test_bodies_without_an_id(ids: Fragment, tasks: Fragment, body: bytes) -> None:
    assert ids([as_text(body)]) == tasks([as_text(body)]) == [b""]


@pytest.mark.parametrize("length", [5, 31, 32, 300])
def test_tasks_of_bodies_with_headers(tasks: Fragment, length: int) -> None:
    body = msgspec.msgpack.encode(Envelope("x" * length, [b"bytes", 1.5], "task"))
    headed = with_headers(body, packed_headers({"traceparent": "00-1"}))
    assert tasks([as_text(body)], [as_text(headed)]) == [b"task", b"task"]


@pytest.mark.parametrize("length", [5, 31, 32, 300])
def test_bodies_that_break_off(ids: Fragment, tasks: Fragment, length: int) -> None:
    body = msgspec.msgpack.encode(
        ("x" * length, {"a": [b"bytes", 1.5, dt.datetime.now(UTC)]}, "task")
    )
    parts = [[as_text(body[:size])] for size in range(len(body))]
    header = len(msgspec.msgpack.encode("x" * length)) + 1
    assert ids(*parts) == [b""] * header + [b"x" * length] * (len(body) - header)
    assert tasks(*parts) == [b""] * len(body)


@MANY
@given(st.lists(st.binary(max_size=30).map(lambda data: b"\x93" + data), min_size=1, max_size=20))
def test_junk(ids: Fragment, tasks: Fragment, bodies: list[bytes]) -> None:
    cases = [[as_text(body)] for body in bodies]
    for body, id_, task in zip(bodies, ids(*cases), tasks(*cases), strict=True):
        envelope = read_envelope(body)
        if envelope is not None:
            assert (id_, task) == (envelope.id.encode(), envelope.task.encode())


payloads = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.just(UTC))
    | st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=40))
    | st.sampled_from([2**8, 2**16]).map(lambda size: b"x" * size)
    | st.sampled_from([2**8, 2**16]).map(lambda size: "x" * size)
    | st.sampled_from([2**8, 2**16]).map(lambda size: msgspec.msgpack.Ext(5, b"x" * size))
    | st.sampled_from([2**8, 2**16]).map(lambda size: [None] * size)
    | st.just(2**16).map(lambda size: dict.fromkeys(range(size))),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=8,
)


@settings(MANY, max_examples=40)
@given(st.lists(st.tuples(st.text(min_size=1), payloads, st.text()), min_size=1, max_size=5))
def test_tasks_behind_any_payload(
    ids: Fragment, tasks: Fragment, envelopes: list[tuple[str, Any, str]]
) -> None:
    cases = [[as_text(msgspec.msgpack.encode(envelope))] for envelope in envelopes]
    assert ids(*cases) == [id_.encode() for id_, _, _ in envelopes]
    assert tasks(*cases) == [task.encode() for _, _, task in envelopes]


def test_a_body_nested_as_deep_as_it_is_long(tasks: Fragment) -> None:
    body = b"\x93\xa1x" + b"\x91" * 100_000 + b"\x00" + b"\xa4task"
    assert tasks([as_text(body)]) == [b"task"]
