"""Policies: short forms, wrong values, and contradictions that are refused with a reason."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from taskyard import Batch, RateLimit, Retry, Yard
from taskyard.errors import PolicyError
from taskyard.policy import Policy, policy, seconds

NAN, INFINITY = float("nan"), float("inf")


def same(_context: object, _error: BaseException) -> float:
    return 1.0


# Short forms


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({}, "queue", "default"),
        ({}, "batch", None),
        ({}, "retry", Retry(3, "exponential")),
        ({"batch": True}, "batch", Batch()),
        ({"batch": False}, "batch", None),
        ({"batch": None}, "batch", None),
        ({"batch": 7}, "batch", Batch(size=7)),
        ({"batch": Batch(3, within=1)}, "batch", Batch(3, 1.0)),
        ({"retry": 5}, "retry", Retry(5)),
        ({"retry": 0}, "retry", Retry(0)),
        ({"retry": False}, "retry", Retry(0)),
        ({"retry": None}, "retry", Retry(None)),
        ({"retry": same}, "retry", Retry(None, backoff=same)),
        ({"retry": Retry(1, "linear")}, "retry", Retry(1, "linear")),
        ({"timeout": timedelta(minutes=1)}, "timeout", 60.0),
        ({"timeout": 2}, "timeout", 2.0),
        ({"expires": timedelta(days=1)}, "expires", 86_400.0),
        ({"result_ttl": timedelta(hours=1)}, "result_ttl", 3600.0),
        ({"result_ttl": None}, "result_ttl", None),
        ({"linger": 0}, "linger", 0.0),
        ({"ordered": True, "on_error": "skip"}, "retry", Retry(0)),
        ({"ordered": True, "on_error": "skip", "retry": 0}, "retry", Retry(0)),
        ({"priority": -1024}, "priority", -1024),
        ({"priority": 1023}, "priority", 1023),
    ],
)
def test_short_forms(options: dict[str, Any], field: str, value: object) -> None:
    assert getattr(policy(options), field) == value


def test_durations_of_batches_and_retries_may_be_timedeltas() -> None:
    assert Batch(within=timedelta(seconds=2)).within == 2.0  # type: ignore[arg-type]
    assert Retry(delay=timedelta(minutes=2)).delay == 120.0  # type: ignore[arg-type]
    assert Retry(longest=timedelta(hours=2)).longest == 7200.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "claims"),
    [
        ({}, None),
        ({"ordered": True}, 1),
        ({"shard_concurrency": 3}, 3),
        ({"ordered": True, "shard_concurrency": 1}, 1),
    ],
)
def test_claims_per_shard(options: dict[str, Any], claims: int | None) -> None:
    assert policy(options).claims_per_shard == claims


# Wrong values: each error names the option and shows the value


@pytest.mark.parametrize("name", ["timeout", "expires", "result_ttl"])
@pytest.mark.parametrize("value", [0, -1, NAN, INFINITY, -INFINITY, True, "5", 1e12, [1]])
def test_durations_that_must_be_positive(name: str, value: object) -> None:
    with pytest.raises(PolicyError, match=name) as caught:
        policy({name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", ["timeout", "expires", "linger"])
def test_only_result_ttl_may_be_auto(name: str) -> None:
    assert policy({"result_ttl": "auto"}).result_ttl == "auto"
    with pytest.raises(PolicyError, match=f"{name} must be a number of seconds.*'auto'"):
        policy({name: "auto"})


@pytest.mark.parametrize("value", [-1, NAN, INFINITY, True, "5", None, 1e12])
def test_durations_that_may_be_zero(value: object) -> None:
    with pytest.raises(PolicyError, match="linger"):
        policy({"linger": value})
    with pytest.raises(PolicyError, match="batch within"):
        Batch(within=value)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="retry delay"):
        Retry(delay=value)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="longest retry delay"):
        Retry(longest=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        *[({"priority": value}, "priority") for value in (-1025, 1024, 1.0, True, "1", None)],
        *[({"max_deliveries": value}, "max_deliveries") for value in (0, -1, 1001, 2.5, True)],
        *[
            ({"shard_concurrency": value}, "shard_concurrency")
            for value in (0, -1, 1.5, True, 1 << 30)
        ],
        *[({"queue": value}, "queue") for value in ("", "a\n", "a" * 201, None, 5, b"a")],
        *[
            ({"order": value, "ordered": True}, "order")
            for value in ("", "a\tb", "a" * 201, 5, False)
        ],
        *[({"shard": value}, "shard") for value in (5, ["user"], True, b"user")],
        *[({"on_error": value, "ordered": True}, "on_error") for value in ("stop", None, True)],
        *[({"batch": value}, "batch") for value in (0, -1, 10_001, 2.5, "10", [1])],
        *[({"retry": value}, "retry") for value in (-1, 1_000_001, True, 1.5, "3")],
        *[({"ordered": value}, "ordered") for value in ("yes", 1, None, "user")],
    ],
)
def test_wrong_values(options: dict[str, Any], name: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy(options)
    value = options.get(name)
    assert name in str(caught.value)
    assert repr(value) in str(caught.value) or isinstance(value, int)


@pytest.mark.parametrize("size", [0, -1, 10_001, 1.0, True, "5", None])
def test_wrong_batch_sizes(size: Any) -> None:
    with pytest.raises(PolicyError, match="batch size must be"):
        Batch(size)


@pytest.mark.parametrize("count", [0, -1, (1 << 30) + 1, 1.5, True, "5"])
def test_wrong_batch_bytes(count: Any) -> None:
    with pytest.raises(PolicyError, match="batch bytes must be"):
        Batch(bytes=count)


@pytest.mark.parametrize("count", [-1, 1_000_001, 1.5, True, "5"])
def test_wrong_retry_counts(count: Any) -> None:
    with pytest.raises(PolicyError, match="retry count must be"):
        Retry(count)


@pytest.mark.parametrize("jitter", [-0.1, 1.1, NAN, INFINITY, True, False, "0.5", None])
def test_wrong_jitter(jitter: Any) -> None:
    with pytest.raises(PolicyError, match=r"jitter must be a share from 0 to 1, not"):
        Retry(jitter=jitter)


@pytest.mark.parametrize("backoff", ["quadratic", "", None, 2, ["linear"]])
def test_wrong_backoff(backoff: Any) -> None:
    with pytest.raises(PolicyError, match="backoff must be 'constant', 'linear', 'exponential'"):
        Retry(backoff=backoff)


@pytest.mark.parametrize(
    ("limit", "per", "burst"),
    [
        (RateLimit(100, per=60, burst=20), 60.0, 20),
        (RateLimit(100, per=60), 60.0, 1),
        (RateLimit(100), 1.0, 10),
        (RateLimit(19), 1.0, 1),
        (RateLimit(0.5, per=timedelta(hours=1)), 3600.0, 1),
        (RateLimit(10**6), 1.0, 100_000),
        (RateLimit(1, per=1e-6), 1e-6, 100_000),
    ],
)
def test_rate_limits(limit: RateLimit, per: float, burst: int) -> None:
    assert (limit.per, limit.burst) == (per, burst)


@pytest.mark.parametrize("count", [0, -1, NAN, INFINITY, -INFINITY, True, "5", None])
def test_wrong_rates(count: Any) -> None:
    with pytest.raises(PolicyError, match="the count of a rate limit must be") as caught:
        RateLimit(count)
    assert repr(count) in str(caught.value)


@pytest.mark.parametrize("per", [0, -1, NAN, INFINITY, True, "5", None, 1e-7, 1e12])
def test_wrong_times_of_rates(per: Any) -> None:
    with pytest.raises(PolicyError, match="rate limit per") as caught:
        RateLimit(1, per=per)
    assert repr(per) in str(caught.value)


@pytest.mark.parametrize("burst", [0, -1, NAN, 1.5, True, "5", 10**7])
def test_wrong_bursts(burst: Any) -> None:
    with pytest.raises(PolicyError, match="burst of a rate limit must be"):
        RateLimit(1, burst=burst)


def test_rates_that_no_broker_can_keep() -> None:
    with pytest.raises(PolicyError, match="at most a million per second, not RateLimit"):
        RateLimit(10**6 + 1)
    with pytest.raises(PolicyError, match="more than a hundred years until the burst may be"):
        RateLimit(1, per=86_400 * 365, burst=101)


@pytest.mark.parametrize("name", ["rate", "shard_rate"])
@pytest.mark.parametrize("value", [5, "100/60", (100, 60), True])
def test_what_is_no_rate_limit(name: str, value: object) -> None:
    with pytest.raises(
        PolicyError, match=rf"{name} must be a RateLimit, as RateLimit\(100, per=60"
    ):
        policy({name: value})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retries": 3}, "unknown option retries; a task takes batch, codec, expires, "),
        ({"retries": 3, "delay": 1}, "unknown options delay, retries; a task takes "),
        ({"shards": "user"}, "unknown option shards"),
    ],
)
def test_unknown_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(text)):
        policy(options)
    with pytest.raises(PolicyError, match=re.escape(text)):
        Yard("memory://").task(**options)


# Contradictions: the error names both and says what to do


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"ordered": True, "shard_concurrency": 2}, ["ordered=True", "shard_concurrency=2"]),
        ({"order": "user"}, ["order='user'", "needs ordered=True"]),
        ({"on_error": "park"}, ["on_error='park'", "needs ordered=True"]),
        ({"on_error": "skip"}, ["on_error='skip'", "needs ordered=True"]),
        (
            {"on_error": "park", "ordered": True, "retry": None},
            ["on_error='park'", "unlimited", "give a count"],
        ),
        (
            {"on_error": "park", "ordered": True, "retry": same},
            ["on_error='park'", "unlimited", "give a count"],
        ),
        (
            {"on_error": "skip", "ordered": True, "retry": 3},
            ["on_error='skip'", "retry=", "drop one"],
        ),
        (
            {"on_error": "skip", "ordered": True, "retry": None},
            ["on_error='skip'", "retry=", "drop one"],
        ),
        (
            {"batch": Batch(10, within=60), "expires": 60},
            ["expire after 60 s", "within=60 s", "lower within= or raise expires="],
        ),
        (
            {"batch": Batch(10, within=90), "expires": timedelta(seconds=60)},
            ["expire after 60 s", "within=90 s"],
        ),
    ],
)
def test_contradictions(options: dict[str, Any], texts: list[str]) -> None:
    with pytest.raises(PolicyError) as caught:
        policy(options)
    assert [text for text in texts if text not in str(caught.value)] == []


def test_a_batch_of_one_waits_for_nobody() -> None:
    with pytest.raises(PolicyError, match="drop within= or raise size="):
        Batch(size=1, within=5)
    assert Batch(size=1).size == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"minimum": 0, "within": 1}, "batch minimum must be from 1 to 10,000, not 0"),
        ({"minimum": 2.5, "within": 1}, "batch minimum must be a whole number, not 2.5"),
        ({"minimum": 101, "within": 1}, "minimum of 101 messages, as its size is 100"),
        ({"minimum": 50}, "without within= it never waits: give within= or drop minimum="),
        ({"minimum": 1, "within": 1}, "within= never applies: drop both, or raise minimum="),
        ({"lead": -1, "within": 1}, "batch lead must be at least 0 seconds, not -1"),
        ({"lead": "1", "within": 1}, "batch lead must be a number of seconds or a timedelta"),
        ({"lead": 1}, "without within= it never waits: give within= or drop lead="),
    ],
)
def test_what_a_batch_cannot_wait_for(options: dict[str, Any], text: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(text)):
        Batch(100, **options)


@pytest.mark.parametrize(
    ("batch", "lead"),
    [
        (Batch(9, within=60), 1.0),
        (Batch(9, within=0.25), 0.25),
        (Batch(9), 0.0),
        (Batch(9, within=60, lead=0), 0.0),
        (Batch(9, within=60, lead=timedelta(seconds=90)), 90.0),  # type: ignore[arg-type]
    ],
)
def test_the_lead_of_a_batch(batch: Batch, lead: float) -> None:
    assert batch.lead_seconds == lead


def test_a_policy_cannot_be_changed_afterwards() -> None:
    with pytest.raises(AttributeError):
        Policy().queue = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0.0), (1, 1.0), (0.5, 0.5), (timedelta(milliseconds=1), 0.001)]
)
def test_seconds(value: object, expected: float) -> None:
    assert seconds("it", value) == expected


def test_seconds_says_what_was_wrong() -> None:
    with pytest.raises(PolicyError, match=r"it must be at least 0 seconds, not -1"):
        seconds("it", -1)
    with pytest.raises(PolicyError, match=r"it must be more than 0 seconds, not 0"):
        seconds("it", 0, open_=True)
    with pytest.raises(PolicyError, match=r"it of 1e\+99 seconds is longer than a hundred years"):
        seconds("it", 1e99)
