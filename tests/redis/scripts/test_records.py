"""records.lua: what is told of messages by their ids."""

from __future__ import annotations

from typing import Any

import pytest
from tests.redis.scripts.calls import GROUP, call, claim, declare, envelope, item, put, reap, settle
from tests.redis.scripts.container import NOW, Container

NAME = GROUP.encode()


def records(*ids: str, listener: str = "") -> Any:
    return call("records", listener, *ids)


def told(
    state: str, result: bytes | None = None, failure: bytes | None = None, losses: int = 0
) -> Any:
    return [NAME, state.encode(), result, failure, losses, None, 0]


def test_none(box: Container) -> None:
    assert box.trace(records()) == ([], {})
    assert box.trace(records("x", "")) == ([0, 0], {})
    assert box.trace(records("x", listener="ear")) == ([0], {})


def test_waiting_and_running(box: Container) -> None:
    box.run(declare(concurrency=1))
    box.run(put("1", "2", ids=["x", "y"], ttl=60))
    assert box.trace(records("y", "no", "x")) == ([told("waiting"), 0, told("waiting")], {})
    (token,) = box.tokens(claim(1))
    assert box.trace(records("x", "y")) == ([told("running"), told("waiting")], {})
    box.run(settle(token, {NOW: ("back", True, False)}))
    assert box.trace(records("x", "y")) == ([told("waiting"), told("waiting")], {})


def test_delayed(box: Container) -> None:
    box.run(put(envelope("x"), ids=["x"], ttl=60, delay=50))
    assert box.trace(records("x"))[0] == [told("delayed")]
    box.now = NOW + 50
    assert box.trace(records("x"))[0] == [told("waiting")]
    box.run(claim())
    assert box.trace(records("x"))[0] == [told("running")]


@pytest.mark.parametrize("concurrency", [0, 1])
def test_retrying(box: Container, concurrency: int) -> None:
    box.run(declare(concurrency=concurrency))
    box.run(put(envelope("x"), ids=["x"], ttl=60))
    (token,) = box.tokens(claim())
    box.run(settle(token, {NOW: ("retried", 50, "x")}))
    assert box.trace(records("x"))[0] == [told("retrying")]
    box.now = NOW + 50
    assert box.trace(records("x"))[0] == [told("waiting")]
    box.run(claim())
    assert box.trace(records("x"))[0] == [told("running")]


def test_the_ends(box: Container) -> None:
    box.run(put(*"1234", ids=["done", "result", "dead", "discarded"], ttl=60))
    (token,) = box.tokens(claim())
    outcomes = {NOW + 2: ("dead", 5, "dead", "", True), NOW + 3: ("discard", "discarded")}
    box.run(settle(token, outcomes, b"\x00why", b"\xffsaid", results=[("result", 6)]))
    reply, changed = box.trace(records("result", "dead", "discarded", listener="ear"))
    assert reply == [told("done", b"\xffsaid"), told("dead", None, b"\x00why"), told("discarded")]
    assert changed == {}
    box.now = NOW + 60
    assert box.trace(records("result", "dead", "discarded"))[0] == [0, 0, 0]


def test_lost(box: Container) -> None:
    box.run(declare(max_deliveries=1))
    box.run(put(envelope("x"), ids=["x"], ttl=60))
    box.run(claim())
    box.run(reap("ann"))
    assert box.trace(records("x"))[0] == [told("dead", None, b"", 1)] or box.trace(records("x"))[
        0
    ] == [told("dead", None, None, 1)]


def test_who_waits(box: Container) -> None:
    box.run(put("1", "2", ids=["x", "y"], ttl=60))
    _, changed = box.trace(records("x", "y", listener="ear"))
    assert [changed[f"record {id_}"]["waiters"] for id_ in "xy"] == ["ear", "ear"]
    assert box.trace(records("x", listener="ear"))[1] == {}
    _, changed = box.trace(records("x", listener="eye"))
    assert changed["record x"]["waiters"] == "ear eye"


def test_of_many_who_wait_the_oldest_are_forgotten(box: Container) -> None:
    box.run(put("1", ids=["x"], ttl=60))
    for number in range(60):
        box.run(records("x", listener=f"ear{number}"))
    waiters = box.dump()["record x"]["waiters"].split()
    assert waiters == [f"ear{number}" for number in range(10, 60)]


def test_ten_thousand_ids(box: Container) -> None:
    ids = [f"id{number}" for number in range(10_000)]
    box.run(put(*ids, ids=ids, ttl=60))
    assert box.run(records(*ids, "no")) == [told("waiting")] * 10_000 + [0]


def test_records_expire_by_the_clock_of_the_server(box: Container) -> None:
    box.now = None
    box.run(put("1", "2", ids=["x", "y"], ttl=60_000_000))
    assert box.client.ttl(f"{box.key}:k:x") == -1
    (token,) = box.tokens(claim())
    box.run(settle(token, None, b"", results=[("x", 5)]))
    assert 0 < box.client.pttl(f"{box.key}:k:x") <= 60_000
    assert box.client.ttl(f"{box.key}:k:y") == -1


def test_the_time_is_that_of_the_server(box: Container) -> None:
    box.now = None
    before = box.client.time()
    now = box.run(put("1")) and box.run(claim())[1]
    after = box.client.time()
    assert before[0] * 1_000_000 + before[1] <= now <= after[0] * 1_000_000 + after[1]


def test_ids_of_other_lanes_and_groups(box: Container) -> None:
    box.run(put(item("1", group="r\0s", shard="ä", priority=-2, ids=["ü"], ttl=9)))
    assert box.trace(records("ü"))[0] == [[b"r\0s", b"waiting", None, None, 0, None, 0]]
