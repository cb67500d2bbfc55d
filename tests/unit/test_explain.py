"""Why a message is not running: the decision, and its words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from taskyard import Explanation, Why
from taskyard.brokers.base import Group
from taskyard.brokers.explain import explained
from taskyard.brokers.facts import COUNTED, Bucket, Facts, Head, Holder, Where
from taskyard.brokers.lane import Gate, GroupPolicy, LaneState
from taskyard.brokers.rate import Rate, Scope
from taskyard.brokers.workers import WorkerInfo
from taskyard.message import Failure, Reason, State

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND
SOON = NOW + 10 * SECOND
LATER = NOW + 60 * SECOND
START = datetime.fromtimestamp(NOW / SECOND, UTC)
RATE = Rate(1, 10 * SECOND, 1)

HERE = Facts(NOW, Group("q", "t"), State.WAITING, shard="s", where=Where.LANE)
HOLDER = Holder("w1", NOW - SECOND, NOW, LATER, 3)


def worker(*tasks: str, **changed: Any) -> WorkerInfo:
    given = {
        "id": "w",
        "host": "h",
        "pid": 1,
        "version": "0",
        "serves": {"q": list(tasks or ("t",))},
        "slots": 1,
        "state": "running",
        "paused": [],
        "running": 0,
        "calls": [],
        "started": START,
        "seen": START,
        "progress": None,
        "silent": False,
    }
    return WorkerInfo(**(given | changed))


# In the order in which they are told: each of them holds together with all that follow.
OBSTACLES: list[tuple[Why, dict[str, Any]]] = [
    (Why.DONE, {"state": State.DONE, "ended": NOW}),
    (Why.RUNNING, {"holder": HOLDER, "where": Where.CLAIM}),
    (Why.CANCELLED, {"note": NOW}),
    (Why.MOVING, {"where": Where.AWAY}),
    (Why.DELAYED, {"where": Where.OUTSIDE, "due": SOON}),
    (Why.PAUSED, {"gate": Gate.PAUSED}),
    (Why.PARKED, {"lane": {"parked": True}}),
    (Why.BLOCKED, {"lane": {"blocked": LATER}, "heads": (Head("m", 1),)}),
    (Why.BUSY, {"lane": {"held": 1}, "policy": {"concurrency": 1}, "held_by": (HOLDER,)}),
    (Why.LIMITED, {"buckets": (Bucket(Scope.QUEUE, RATE, SOON),)}),
    (
        Why.FILLING,
        {"lane": {"waiting": 1, "oldest": NOW}, "policy": {"size": 5, "within": 10 * SECOND}},
    ),
    (Why.NO_WORKER, {}),
]


def made(*changes: dict[str, Any]) -> Facts:
    """Facts with all of these; of lanes and policies they are put together."""
    lane: dict[str, Any] = {}
    policy: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for change in changes:
        lane |= change.get("lane", {})
        policy |= change.get("policy", {})
        others |= {key: one for key, one in change.items() if key not in ("lane", "policy")}
    return msgspec.structs.replace(
        HERE, lane=LaneState(**lane), policy=GroupPolicy(**policy), **others
    )


@pytest.mark.parametrize(("why", "change"), OBSTACLES, ids=lambda one: getattr(one, "value", ""))
def test_one_obstacle(why: Why, change: dict[str, Any]) -> None:
    assert explained("x", made(change), []).reason is why


@pytest.mark.parametrize("first", range(len(OBSTACLES)))
def test_of_several_the_first_to_go_is_told(first: int) -> None:
    # What a message is replaced by where several say where it is: the first of them.
    changes = [change for _, change in reversed(OBSTACLES[first:])]
    assert explained("x", made(*changes), []).reason is OBSTACLES[first][0]


DETAILS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"state": State.DEAD, "failure": Failure(Reason.FAILED)}, {"reason": Why.DEAD}),
    ({"state": State.DEAD, "failure": Failure(Reason.EXPIRED)}, {"reason": Why.EXPIRED}),
    ({"state": State.DEAD}, {"reason": Why.DEAD, "failure": None}),
    ({"state": State.DISCARDED}, {"reason": Why.DISCARDED}),
    ({"state": State.CANCELLED}, {"reason": Why.CANCELLED}),
    ({"state": State.RETRYING, "holder": HOLDER}, {"reason": Why.RUNNING, "worker": "w1"}),
    ({"where": Where.NOWHERE}, {"reason": Why.UNKNOWN, "queue": "q"}),
    # Outside its lane
    ({"where": Where.OUTSIDE, "due": SOON, "attempts": 2}, {"reason": Why.RETRYING}),
    ({"where": Where.OUTSIDE, "due": NOW}, {"reason": Why.NEXT}),
    # Its lane
    (
        {"lane": {"blocked": SOON}, "heads": (Head("u", 0), Head("m", 2))},
        {"reason": Why.BLOCKED, "head": "m"},
    ),
    (
        {"lane": {"blocked": SOON}, "heads": (Head("x", 1), Head("m", 0)), "attempts": 1},
        {"reason": Why.RETRYING, "head": None},
    ),
    ({"lane": {"blocked": NOW}}, {"reason": Why.NEXT}),
    ({"lane": {"held": 1}, "policy": {"concurrency": 2}}, {"reason": Why.NEXT}),
    ({"lane": {"held": 9}, "policy": {"concurrency": 0}}, {"reason": Why.NEXT}),
    ({"lane": {"held": 1}, "policy": {"concurrency": 1}}, {"reason": Why.BUSY, "worker": None}),
    (
        {
            "lane": {"held": 2},
            "policy": {"concurrency": 2},
            "held_by": (HOLDER, Holder("old", 5 * SECOND, NOW, LATER, 1)),
        },
        {"reason": Why.BUSY, "worker": "old"},
    ),
    # Rate limits: the last of several tokens counts
    (
        {
            "buckets": (Bucket(Scope.QUEUE, RATE, SOON), Bucket(Scope.TASK, RATE, SOON - SECOND)),
            "policy": {"shard_rate": RATE},
            "lane": {"tat": SOON - 2},
        },
        {"reason": Why.LIMITED, "limit": Scope.QUEUE},
    ),
    (
        {"policy": {"shard_rate": RATE}, "lane": {"tat": SOON}},
        {"reason": Why.LIMITED, "limit": Scope.SHARD},
    ),
    ({"buckets": (Bucket(Scope.TASK, RATE, NOW),)}, {"reason": Why.NEXT}),
    # Batches
    (
        {
            "lane": {"waiting": 1, "oldest": NOW},
            "policy": {"size": 5, "within": SECOND},
            "gate": Gate.DRAINING,
        },
        {"reason": Why.NEXT},
    ),
    (
        {"lane": {"waiting": 5, "oldest": NOW}, "policy": {"size": 5, "within": SECOND}},
        {"reason": Why.NEXT},
    ),
    (
        {"lane": {"waiting": 1, "oldest": NOW - SECOND}, "policy": {"size": 5, "within": SECOND}},
        {"reason": Why.NEXT},
    ),
    (
        {
            "lane": {"waiting": 2, "oldest": NOW},
            "policy": {"size": 5, "within": 10 * SECOND, "minimum": 2},
        },
        {"reason": Why.NEXT},
    ),
    (
        {
            "lane": {"waiting": 1, "oldest": NOW, "deadline": NOW + 5 * SECOND},
            "policy": {"size": 5, "within": 10 * SECOND, "lead": 2 * SECOND},
        },
        {"reason": Why.FILLING, "until": START + timedelta(seconds=3)},
    ),
    (
        {
            "lane": {"waiting": 1, "oldest": NOW, "deadline": NOW + 50 * SECOND},
            "policy": {"size": 5, "within": 10 * SECOND, "lead": 2 * SECOND},
        },
        {"reason": Why.FILLING, "until": START + timedelta(seconds=10)},
    ),
    (
        {
            "lane": {"waiting": 1, "oldest": NOW, "deadline": NOW + 2 * SECOND},
            "policy": {"size": 5, "within": 10 * SECOND, "lead": 2 * SECOND},
        },
        {"reason": Why.NEXT},
    ),
    # Its turn
    ({"ahead": ((0, 0), (1, 0))}, {"reason": Why.NEXT, "workers": 1}),
    (
        {"ahead": ((-1, 0), (0, 2), (1, 3))},
        {"reason": Why.BEHIND, "ahead": 5, "ahead_priorities": (0, 1), "more": False},
    ),
    ({"shards_ahead": 2}, {"reason": Why.BEHIND, "shards_ahead": 2, "ahead_priorities": None}),
    ({"ahead": ((0, COUNTED),)}, {"ahead": COUNTED, "more": False}),
    ({"ahead": ((0, COUNTED), (1, 1))}, {"ahead": COUNTED, "more": True}),
    ({"shards_ahead": COUNTED + 1}, {"shards_ahead": COUNTED, "more": True}),
    ({"cap": 1, "losses": 2}, {"reason": Why.SUSPECT, "losses": 2}),
    ({"cap": 1, "ahead": ((0, 1),)}, {"reason": Why.BEHIND}),
    ({"cap": 4}, {"reason": Why.NEXT}),
]


@pytest.mark.parametrize(("change", "expected"), DETAILS)
def test_details(change: dict[str, Any], expected: dict[str, Any]) -> None:
    found = explained("x", made(change), [worker()])
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.text


@pytest.mark.parametrize(
    ("workers", "why", "number"),
    [
        ([], Why.NO_WORKER, 0),
        ([worker(silent=True)], Why.NO_WORKER, 0),
        ([worker("other")], Why.NO_WORKER, 0),
        ([worker(serves={"other": ["t"]})], Why.NO_WORKER, 0),
        ([worker(paused=["q"])], Why.WORKERS_PAUSED, 1),
        ([worker(state="stopping"), worker(state="paused")], Why.WORKERS_PAUSED, 2),
        ([worker(paused=["other"])], Why.NEXT, 1),
        ([worker(paused=["q"]), worker()], Why.NEXT, 2),
    ],
)
def test_workers(workers: list[WorkerInfo], why: Why, number: int) -> None:
    found = explained("x", HERE, workers)
    assert (found.reason, found.workers) == (why, number)


def test_a_worker_must_know_all_tasks_of_an_order() -> None:
    facts = made({"policy": {"members": ("a", "b")}})
    assert explained("x", facts, [worker("a"), worker("b")]).reason is Why.NO_WORKER
    assert explained("x", facts, [worker("a", "b")]).reason is Why.NEXT


def test_what_was_not_found() -> None:
    assert explained("x", Facts(NOW), []) == Explanation("x", Why.UNKNOWN)
    for found in (
        explained("x", Facts(NOW, searched=False), []),
        explained("x", Facts(NOW), [], all_letters=False),
    ):
        assert found == Explanation("x", Why.UNKNOWN, searched=False)
    assert explained("x", Facts(NOW, note=NOW), []).reason is Why.CANCELLED


# Words

AT = "2023-11-14 22:13:"
HERE_TOO: dict[str, Any] = {"queue": "q", "task": "t", "shard": "s"}
TIMES: dict[str, Any] = {"until": START, "since": START, "seen": START}

TEXTS: list[tuple[Why, dict[str, Any], str]] = [
    (Why.DONE, {}, f"it was done at {AT}20 UTC"),
    (Why.DEAD, {"failure": Failure("failed")}, f"it is a dead letter since {AT}20 UTC: failed"),
    (Why.DEAD, {"letter": 7}, f"it is a dead letter 7 since {AT}20 UTC"),
    (
        Why.RUNNING,
        {"worker": "w", "messages": 3, "stopping": True},
        f"it is running with 2 others in worker w, which is told that it is cancelled, since {AT}20"
        f" UTC (last heartbeat {AT}20 UTC, its lease ends at {AT}20 UTC)",
    ),
    (Why.RETRYING, {"attempts": 1}, f"it failed 1 time, and is tried again at {AT}20 UTC"),
    (Why.PARKED, {}, "the shard 's' of q/t is parked"),
    (Why.PARKED, {"shard": ""}, "q/t is parked"),
    (
        Why.BLOCKED,
        {"head": "m"},
        f"the shard 's' of q/t is blocked by its head m, which is tried again at {AT}20 UTC",
    ),
    (Why.BUSY, {"worker": "w"}, f"the shard 's' of q/t is busy with worker w since {AT}20 UTC"),
    (Why.BUSY, {}, "the shard 's' of q/t is busy"),
    (Why.LIMITED, {"limit": Scope.TASK}, f"the rate limit of q/t is used up until {AT}20 UTC"),
    (Why.NO_WORKER, {}, "no worker that is alive knows q/t"),
    (
        Why.BEHIND,
        {"ahead": 1, "ahead_priorities": (0, 0)},
        "it waits behind 1 message of priority 0 in the shard 's' of q/t",
    ),
    (
        Why.BEHIND,
        {"ahead": COUNTED, "ahead_priorities": (0, 3), "shards_ahead": 2, "more": True},
        "it waits behind more than 10,000 messages of priorities 0 to 3 in the shard 's' of q/t"
        " and 2 other shards whose turn comes first",
    ),
]


@pytest.mark.parametrize(("why", "change", "text"), TEXTS)
def test_texts(why: Why, change: dict[str, Any], text: str) -> None:
    assert Explanation("x", why, **(HERE_TOO | TIMES | change)).text == text


@pytest.mark.parametrize("why", Why)
def test_every_reason_has_a_text_even_without_facts(why: Why) -> None:
    assert Explanation("x", why).text
    assert Explanation("x", why, searched=False).text


def test_an_explanation_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Explanation("x", Why.NEXT).id = "y"  # type: ignore[misc]
