"""Unique keys in the scripts: what is stored with them, and who releases them."""

from __future__ import annotations

from typing import Any

import msgspec
from tests.redis.scripts.calls import GROUP, BytesLike, call, claim, declare, envelope, put, settle
from tests.redis.scripts.container import NOW, Container, Due, Entry, State, fresh
from tests.redis.scripts.splits import leave

from taskyard.brokers.redis.calls import Call

MINUTE = 60_000_000
A, B, C = envelope("a"), envelope("b"), envelope("c")
STANDING = 6


def marked(sequence: int, body: bytes, mark: str) -> Entry:
    return fresh(sequence, body)._replace(mark=mark.encode())


def unique(mode: str, keys: str, *bodies: BytesLike, **more: Any) -> Call:
    """Put bodies with these keys of a letter each."""
    return put(*bodies, unique=(mode, MINUTE, 3 * MINUTE, *keys), **more)


def told(reply: Any) -> list[Any]:
    code, packed = reply
    assert code == STANDING
    return msgspec.msgpack.decode(packed, type=list[Any])


def keys(box: Container) -> State:
    return {path: value for path, value in box.dump().items() if path[:4] in ("key ", "wind")}


def test_a_key_is_stored_with_the_message_and_travels_with_it(box: Container) -> None:
    box.run(declare())
    reply, changed = box.trace(unique("d", "kl", A, B))
    assert told(reply) == [[]]
    assert changed["list 1 0 a"] == [marked(NOW, A, "dk"), marked(NOW + 1, B, "dl")]
    assert keys(box) == {"key 1 a k": ("d", "a"), "key 1 a l": ("d", "b")}


def test_a_key_that_is_held_keeps_its_message_back(box: Container) -> None:
    box.run(unique("d", "k", A))
    reply, changed = box.trace(unique("s", "klk", B, C, B))
    assert told(reply) == [[0, "a", 2, "a"]]
    assert changed["list 1 0 a"][1:] == [marked(NOW + 1, C, "sl")]
    assert changed["count 1 put"] == 2
    reply, changed = box.trace(unique("d", "k", B))
    assert told(reply) == [[0, "a"]]
    assert "count 1 put" not in changed


def test_a_refused_put_holds_nothing(box: Container) -> None:
    box.run(put("x", ids=["x"], ttl=60))
    reply, changed = box.trace(unique("d", "k", A, ids=["x"], ttl=60))
    assert (reply, changed) == (b"x", {})


def test_a_claim_releases_what_is_held_until_then(box: Container) -> None:
    box.run(unique("s", "k", A))
    box.run(unique("d", "l", B))
    _, changed = box.trace(claim())
    assert changed["key 1 a k"] is None
    assert "key 1 a l" not in changed


def test_a_settlement_releases_what_is_held_until_the_end(box: Container) -> None:
    box.run(unique("d", "kl", A, B))
    (token,) = box.tokens(claim())
    _, changed = box.trace(settle(token))
    assert (changed["key 1 a k"], changed["key 1 a l"]) == (None, None)


def test_a_claim_without_keys_reads_nothing_for_them(box: Container) -> None:
    box.run(put(A, B))
    (token,) = box.tokens(claim())
    box.client.config_resetstat()
    box.run(settle(token))
    stats = box.client.info("commandstats")
    assert not {"cmdstat_lrange", "cmdstat_hdel"}.intersection(stats)


def test_who_does_not_hold_a_key_releases_nothing(box: Container) -> None:
    box.run(unique("s", "k", A))
    (token,) = box.tokens(claim())
    box.run(unique("s", "k", B))
    box.run(settle(token, {NOW: ("dead", 5, "a", "t", True)}, b"\xa3why"))
    assert keys(box) == {"key 1 a k": ("s", "b")}
    reply, changed = box.trace(call("redrive", "retry", 1))
    assert (reply, changed) == ([0, 1], {})


def test_a_window_travels_with_no_message(box: Container) -> None:
    _, changed = box.trace(unique("w", "k", A))
    assert changed["list 1 0 a"] == [fresh(NOW, A)]
    assert changed["key 1 a k"] == ("w", "a", NOW + MINUTE)
    assert changed["window 1 a k"] == NOW + MINUTE
    assert box.now is not None
    box.now += MINUTE - 1
    assert told(box.run(unique("w", "k", B))) == [[0, "a"]]
    box.now += 1
    box.run(unique("d", "k", B))
    _, changed = box.trace(call("tidy", MINUTE, 100, "0"))
    assert changed == {"window 1 a k": None}, "the key is another's by now"


def test_a_debounced_message_takes_the_place_of_another(box: Container) -> None:
    box.run(unique("b", "k", A, ids=["a"], ttl=60))
    assert box.now is not None
    box.now += 1
    reply, changed = box.trace(unique("b", "k", B))
    assert told(reply) == [[0, "b"]]
    assert changed[f"due {NOW}"] is None
    due = NOW + 1 + MINUTE
    entry = marked(NOW + 1, B, "bk")
    assert changed[f"due {NOW + 1}"] == Due(due, 1, 0, "a", entry)
    assert changed["record a"]["state"] == "discarded"
    assert changed["key 1 a k"] == ("b", "b", NOW)
    box.now += 3 * MINUTE
    box.tokens(claim())
    assert keys(box) == {}


def test_keys_of_shards_that_leave_are_told(box: Container) -> None:
    for shard, mode in (("a", "d"), ("a", "w"), ("a", "b"), ("e", "d")):
        box.run(unique(mode, mode, A, shard=shard))
    leave(box)
    cursor, packed = box.run(call("held", "q", "0", 100))
    assert cursor == b""
    assert packed.count(GROUP.encode()) == 2, "of a window, and until done"


def test_a_container_that_takes_puts_holds_no_copies_of_keys(box: Container) -> None:
    held = msgspec.msgpack.encode([("k", GROUP, "a", "da")])
    assert box.run(call("hold", "q", 2, held)) == 1
    assert keys(box) == {"key 1 a k": ("d", "a")}
    box.run(call("accept", "q", 2, 2, 1, NOW, msgspec.msgpack.encode(("open", []))))
    assert box.run(call("hold", "q", 2, msgspec.msgpack.encode([("l", GROUP, "a", "db")]))) == 0
    assert keys(box) == {"key 1 a k": ("d", "a")}


def test_nothing_is_left_when_all_is_done(box: Container) -> None:
    assert box.now is not None
    for index, mode in enumerate("sdwb" * 20):
        body = envelope(f"m{index}")
        box.run(unique(mode, f"{mode}{index % 3}", body, body))
    box.now += 10 * MINUTE
    for end in ({}, {"outcome": ("retried", 0, "")}, {"outcome": ("discard", "")}, {}):
        for token in box.tokens(claim(8, claims=3)):
            held = box.dump()[f"held {token}"].entries
            outcomes = {entry.sequence: end["outcome"] for entry in held} if end else {}
            box.run(settle(token, outcomes))
    while tokens := box.tokens(claim(100, claims=5)):
        for token in tokens:
            box.run(settle(token))
    box.run(call("tidy", MINUTE, 100, "0"))
    left = box.dump()
    kinds = {path.split()[0] for path in left}
    assert kinds <= {"meta", "name", "policy", "count"}, kinds
