"""attend.lua, mail.lua, retire.lua, tell.lua and workers.lua."""

from __future__ import annotations

import pytest
from tests.redis.scripts.calls import call
from tests.redis.scripts.container import NOW, Container

from taskyard.brokers.redis.calls import Call

KEPT = 900_000_000


def attend(worker: str = "w", report: str = "r", *, listener: str = "", heard: int = 0) -> Call:
    return call("attend", worker, listener, heard, KEPT, report)


def tell(*workers: str, command: str = "pause", queue: str = "", most: int = 100) -> Call:
    return call("tell", KEPT, most, command, queue, *workers)


def test_an_entry(box: Container) -> None:
    entry = {"worker w": [NOW, b"ear", b"r"], "seen w": NOW}
    assert box.trace(attend(listener="ear")) == ([], entry)
    box.now = NOW + 5
    changed = {"worker w": [NOW + 5, b"", b"s"], "seen w": NOW + 5}
    assert box.trace(attend(report="s")) == ([], changed)
    assert box.trace(call("workers", "0", KEPT)) == ([NOW + 5, b"0", [b"w", NOW + 5, b"s"]], {})


def test_a_message_is_told_once_though_it_is_asked_again(box: Container) -> None:
    box.run(attend())
    reply, changed = box.trace(tell("w", "nobody", command="pause", queue="q"))
    assert reply == [b"w"]
    assert changed["mail w"] == [[NOW, b"pause", b"q"]]
    box.run(tell("w", command="resume"))
    assert box.trace(call("mail", "w", 0))[0] == [[NOW, b"pause", b"q"], [NOW + 1, b"resume", b""]]
    assert box.trace(call("mail", "w", NOW))[0] == [[NOW + 1, b"resume", b""]]
    reply, changed = box.trace(attend(heard=NOW))
    assert reply == [[NOW + 1, b"resume", b""]]
    assert changed == {"mail w": [[NOW + 1, b"resume", b""]]}
    assert box.trace(attend(heard=NOW + 1)) == ([], {"mail w": None})


def test_nobody_is_told(box: Container) -> None:
    assert box.trace(tell("w")) == ([], {})
    assert box.trace(call("mail", "w", 0)) == ([], {})


def test_who_ended_is_gone(box: Container) -> None:
    box.run(attend("v"))
    box.run(attend())
    box.run(tell("w"))
    gone = {"worker w": None, "seen w": None, "mail w": None}
    assert box.trace(call("retire", "w", "x")) == (1, gone)


def test_others_that_expired_are_removed(box: Container) -> None:
    for number in range(103):
        box.run(attend(f"w{number}"))
    assert box.now is not None
    box.now += KEPT
    assert box.trace(attend("w0"))[1].keys() == {"worker w0", "seen w0"}
    box.now += 1
    changed = box.trace(attend("new"))[1]
    assert len([path for path in changed if path.startswith("worker")]) == 101, "100 at once"
    assert box.trace(tell("w102", "w0"))[0] == [b"w0"]
    box.run(attend("new"))
    assert box.dump().keys() >= {"worker new", "worker w0"}
    assert "worker w102" not in box.dump()


def test_the_oldest_mail_gives_way(box: Container) -> None:
    box.run(attend())
    for queue in "abc":
        box.run(tell("w", queue=queue, most=2))
    assert box.dump()["mail w"] == [[NOW + 1, b"pause", b"b"], [NOW + 2, b"pause", b"c"]]


@pytest.mark.parametrize("key", ["workers", "seen", "mail"])
def test_all_expire_when_nobody_attends(box: Container, key: str) -> None:
    box.run(attend())
    box.run(tell("w"))
    assert 1700 < box.client.ttl(f"{box.key}:{key}") <= 1800
