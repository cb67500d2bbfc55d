"""Ids, states, envelopes, and failures as data."""

from __future__ import annotations

import os
import pickle
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskyard import Failure, State, TaskFailed, Yard, current_context
from taskyard.errors import TaskyardError
from taskyard.message import (
    Envelope,
    IdMaker,
    Ids,
    Reason,
    is_text,
    packed_headers,
    read_envelope,
    read_headers,
    read_id,
    with_headers,
)
from taskyard.scheduling import with_id

# Ids


def test_an_id_has_sixteen_characters_and_they_rise() -> None:
    maker = IdMaker()
    ids = [maker.take(1)[0] for _ in range(100)] + list(maker.take(100))
    assert {len(id_) for id_ in ids} == {16}
    assert all(id_.isalnum() and id_.isascii() and id_.islower() for id_ in ids)
    assert ids == sorted(set(ids))


def test_ids_are_unique_over_threads() -> None:
    maker = IdMaker()
    taken: list[list[str]] = [[] for _ in range(8)]
    start = threading.Barrier(8)

    def take(mine: list[str]) -> None:
        start.wait(10)
        for count in range(1, 60):
            mine.extend(maker.take(count))

    threads = [threading.Thread(target=take, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    ids = [id_ for mine in taken for id_ in mine]
    assert len(set(ids)) == len(ids) == 8 * sum(range(1, 60))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_ids_are_unique_over_forks() -> None:
    maker = IdMaker()
    before = list(maker.take(5))
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there may be other threads
        child = os.fork()
    if child == 0:
        os.write(writing, " ".join(maker.take(5)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="ascii") as pipe:
        theirs = pipe.read().split()
    assert os.waitpid(child, 0)[1] == 0
    mine = list(maker.take(5))
    assert len({*before, *mine, *theirs}) == 15


def test_two_makers_share_nothing() -> None:
    assert IdMaker().take(1)[0] != IdMaker().take(1)[0]


def test_a_maker_that_ran_out_takes_another_prefix() -> None:
    maker = IdMaker()
    first = maker.take(IdMaker.LAST)
    second = maker.take(2)
    assert first[0][:11] != second[0][:11]
    assert len({first[0], first[-1], *second}) == 4
    assert len(maker.take(IdMaker.LAST + 1)) == IdMaker.LAST + 1


@given(st.integers(0, 50), st.integers(1, 30), st.slices(30), st.integers(-40, 40))
def test_a_range_of_ids_is_a_sequence(first: int, length: int, part: slice, index: int) -> None:
    ids = Ids("prefixprefi", first, length)
    plain = list(ids)
    assert len(ids) == len(plain) == length
    assert list(ids[part]) == plain[part]
    if -length <= index < length:
        assert ids[index] == plain[index]
    else:
        with pytest.raises(IndexError, match=f"there are {length} ids"):
            ids[index]


# States


def test_which_states_are_final() -> None:
    assert [str(state) for state in State if state.final] == [
        *("done", "dead", "discarded", "cancelled")
    ]


# Envelopes


def test_what_is_no_envelope_is_none() -> None:
    assert read_envelope(msgspec.msgpack.encode(Envelope("id", [1]))) == Envelope("id", [1], "")
    for body in (b"", b"\xc1", b"{}", msgspec.msgpack.encode({"id": 1}), b"\x91" * 100_000):
        assert read_envelope(body) is None


# Headers

BODY = msgspec.msgpack.encode(Envelope("id", [1, {"a": b"2"}], "task"))


def test_a_message_without_headers_is_as_short_as_ever() -> None:
    assert BODY[0] == 0x93
    assert read_headers(BODY) == {}
    assert read_id(BODY) == "id"


def test_headers_come_back_and_the_rest_is_the_same() -> None:
    headed = with_headers(BODY, packed_headers({"b": "2", "a": "é"}))
    assert read_headers(headed) == {"a": "é", "b": "2"}
    assert read_envelope(headed) == read_envelope(BODY)
    assert read_id(headed) == "id"
    assert msgspec.msgpack.decode(headed) == [*msgspec.msgpack.decode(BODY), {"a": "é", "b": "2"}]


def test_another_id_leaves_the_headers() -> None:
    headed = with_headers(BODY, packed_headers({"a": "1"}))
    assert with_id(BODY, "other") == msgspec.msgpack.encode(
        Envelope("other", [1, {"a": b"2"}], "task")
    )
    other = with_id(headed, "other")
    assert read_headers(other) == {"a": "1"}
    assert read_envelope(other) == Envelope("other", [1, {"a": b"2"}], "task")


@pytest.mark.parametrize(
    "body",
    [b"", b"\x94", b"\x94" + BODY[1:], BODY[:-1], b"\xc1", b"\x94" + BODY[1:] + b"\x81\x01\x02"],
)
def test_headers_that_cannot_be_read_are_none(body: bytes) -> None:
    assert read_headers(body) == {}


@pytest.mark.parametrize("body", [b"", b"\x94", b"\xc1", b"\x91" * 100_000])
def test_an_id_that_cannot_be_read_is_empty(body: bytes) -> None:
    assert read_id(body) == ""


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, {"a": "\ud800"}, {"a": b"b"}])
def test_headers_are_texts(headers: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        packed_headers(headers)


# Failures


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Domain(Exception):
    class Inner(Exception):
        pass


def caught(function: Callable[[], Any]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


def fail(error: BaseException) -> None:
    raise error


def test_kind_message_and_traceback() -> None:
    failure = Failure.of(caught(lambda: fail(ValueError("no such order"))))
    assert (failure.reason, failure.kind) == ("failed", "ValueError")
    assert failure.message == "no such order"
    assert failure.summary() == "ValueError: no such order"
    assert "in fail\n    raise error\n" in failure.traceback
    assert failure.traceback.endswith("ValueError: no such order\n")


def test_the_kind_tells_the_module_of_an_exception() -> None:
    assert Failure.of(Domain.Inner("x")).kind == f"{__name__}.Domain.Inner"


def test_other_reasons() -> None:
    assert Failure.of(ValueError(), Reason.TIMEOUT).reason == "timeout"
    assert type(Failure.of(ValueError(), Reason.TIMEOUT).reason) is str


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (Failure("expired"), "expired"),
        (Failure("expired", message="it waited 5 s"), "it waited 5 s"),
        (Failure("failed", "ValueError"), "ValueError: "),
    ],
)
def test_summary(failure: Failure, text: str) -> None:
    assert failure.summary() == text


def test_an_exception_whose_text_cannot_be_made() -> None:
    failure = Failure.of(caught(lambda: fail(Unprintable())))
    assert failure.kind.endswith("Unprintable")
    assert failure.message == "(its text could not be made: RuntimeError)"
    assert "in fail" in failure.traceback


def test_an_exception_whose_text_exits() -> None:
    class Exits(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

    failure = Failure.of(Exits())
    assert failure.message == "(its text could not be made: SystemExit)"


def test_an_exception_whose_text_is_no_unicode_can_be_stored() -> None:
    failure = Failure.of(caught(lambda: fail(ValueError("half \ud800 a pair"))))
    stored = msgspec.msgpack.encode(failure)
    assert "half" in msgspec.msgpack.decode(stored, type=Failure).message


def test_chained_exceptions_are_all_there() -> None:
    def chain() -> None:
        try:
            fail(KeyError("the cause"))
        except KeyError as error:
            raise ValueError("the effect") from error

    text = Failure.of(caught(chain)).traceback
    assert "KeyError: 'the cause'" in text
    assert "The above exception was the direct cause" in text
    assert text.endswith("ValueError: the effect\n")


def test_exception_groups_are_all_there() -> None:
    group = ExceptionGroup("two", [ValueError("one of them"), KeyError("another")])
    text = Failure.of(caught(lambda: fail(group))).traceback
    assert "ValueError: one of them" in text
    assert "KeyError: 'another'" in text


def test_long_texts_are_cut() -> None:
    failure = Failure.of(caught(lambda: fail(ValueError("x" * 1_000_000))))
    assert len(failure.message) <= 10_000
    assert len(failure.traceback) <= 20_000


def test_deep_recursion_is_cut() -> None:
    def deeper(depth: int) -> int:
        return deeper(depth + 1) + 1

    failure = Failure.of(caught(lambda: deeper(0)))
    assert failure.kind == "RecursionError"
    assert len(failure.traceback) <= 20_000


def test_a_traceback_starts_with_the_users_code() -> None:
    yard = Yard("memory://")

    @yard.task(retry=0)
    def handler(number: int) -> int:
        raise ValueError("from the handler")

    result = handler.enqueue(1)
    yard.run_worker(burst=True)
    with pytest.raises(TaskFailed) as failed:
        result.get(timeout=0)
    lines = failed.value.failure.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith("in handler")
    assert "taskyard" not in lines[1].partition("tests")[2]
    assert "worker/carrying.py" not in failed.value.failure.traceback


def test_what_taskyard_itself_raised_keeps_the_users_frames() -> None:
    def user() -> None:
        current_context()

    text = Failure.of(caught(user)).traceback
    assert "in user\n    current_context()" in text


def test_failures_can_be_pickled_and_errors_that_carry_them_too() -> None:
    failure = Failure.of(caught(lambda: fail(Unprintable())))
    assert pickle.loads(pickle.dumps(failure)) == failure
    again = pickle.loads(pickle.dumps(TaskFailed("id-1", failure)))
    assert isinstance(again, TaskFailed)
    assert (again.message_id, again.failure) == ("id-1", failure)
    assert str(again) == str(TaskFailed("id-1", failure))
    assert isinstance(again, TaskyardError)
    assert "Remote traceback:" in "".join(traceback.format_exception(again))


# Text


@pytest.mark.parametrize("text", ["", "a", "ключ", "🐘", "\x01", "\ud7ff\ue000"])
def test_text_that_can_be_stored(text: str) -> None:
    assert is_text(text)


@pytest.mark.parametrize("text", ["\0", "a\0b", "ключ\0", "\ud800", "a\udfff"])
def test_text_that_no_storage_gives_back_unchanged(text: str) -> None:
    assert not is_text(text)
