"""Steps of a worker while some of its queue's partitions cannot be reached."""

from __future__ import annotations

import itertools
import logging
import uuid
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest
from tests.redis.driving import KINDS, SAY, Driven, driven
from tests.servers.binaries import Binary
from tests.servers.server import RedisServer

from taskyard.brokers.base import Claim, Listener, Operation, Put, Settlement, Step, Want
from taskyard.brokers.redis import RedisBroker, parse_url
from taskyard.brokers.redis.absences import Absences
from taskyard.brokers.redis.calls import Call, Each, container_key
from taskyard.brokers.redis.placement import TOKENS
from taskyard.errors import BrokerError, BrokerUnavailable
from taskyard.testing.conformance.harness import TASK, Clock, Harness, Sleeper, body, micros, names

T = TypeVar("T")

PARTITIONS = 4
SHARDS = {1: "4", 2: "0", 3: "5", 4: "1"}
"""A shard of each partition: its container, and its name."""


class Time:
    """What is taken for the clock of the process."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Severed:
    """Runs operations; what it is told to fail, fails.

    Attributes:
        down: the containers that cannot be reached.
        refusing: those that answer, but refuse whatever writes.
        calls: the name of each call, and its container.
    """

    def __init__(self, broker: RedisBroker) -> None:
        self._driver = broker.driver()
        self.down: set[int] = set()
        self.refusing: set[int] = set()
        self.calls: list[tuple[str, int]] = []

    def run(self, operation: Operation[T]) -> T:
        try:
            step = next(operation)
            while True:
                try:
                    reply = self._carry_out(step)
                except BrokerError as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(reply)
        except StopIteration as end:
            value: T = end.value
            return value

    def _carry_out(self, step: Call | list[Call]) -> Any:
        if isinstance(step, Call):
            return self._call(step)
        if not isinstance(step, Each):
            return list(map(self._call, step))
        outcomes: list[Any] = []
        for one in step:
            try:
                outcomes.append(self._call(one))
            except BrokerError as error:
                outcomes.append(error)
        return outcomes

    def _call(self, one: Call) -> Any:
        name, container = one.script.name, int(one.tag)
        self.calls.append((name, container))
        if container in self.down or (container in self.refusing and name == "step"):
            raise BrokerUnavailable(f"no answer of {container}")
        return self._driver.run(_single(one))

    def asked(self, container: int) -> list[str]:
        """What was called in a container since this was asked."""
        found = [name for name, where in self.calls if where == container]
        self.calls = [one for one in self.calls if one[1] != container]
        return found

    def listener(self) -> Listener:
        return self._driver.listener()

    def wait(self, listener: Listener, timeout: float) -> bool:
        return listener.wait(timeout)

    def close(self) -> None:
        self._driver.close()


def _single(one: Call) -> Operation[Any]:
    return (yield one)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr("taskyard.brokers.redis.absences.time", made)
    return made


@pytest.fixture
def broker(redis_server: RedisServer) -> RedisBroker:
    url = f"{redis_server.url}?prefix=work-{uuid.uuid4().hex[:8]}"
    made = RedisBroker(parse_url(url), clock=Clock())
    made.set_partitions(TASK.queue, PARTITIONS)
    return made


@pytest.fixture
def runner(broker: RedisBroker) -> Severed:
    return Severed(broker)


@pytest.fixture
def harness(broker: RedisBroker, runner: Severed, time: Time) -> Iterator[Harness]:
    clock = broker._clock
    assert isinstance(clock, Clock)
    made = Harness(broker, runner, clock)
    made.declare(concurrency=1)
    for container, shard in SHARDS.items():
        assert broker.partition(Put(TASK, [], shard)) == container
    yield made
    runner.down.clear()
    made.close()


def fill(harness: Harness, *containers: int, times: int = 1) -> None:
    """Put messages into containers, or into each of them."""
    for number in range(times):
        for container in containers or SHARDS:
            shard = SHARDS[container]
            harness.put_all(Put(TASK, [body(f"{container} {number}")], shard))


def claims(harness: Harness, count: int = PARTITIONS) -> dict[int, Claim]:
    """Claim, as one step of a worker with so many idle slots; by container."""
    made = harness.claims(claims=count)
    return {TOKENS.inside(claim.token)[0]: claim for claim in made}


def settle_and_claim(harness: Harness, *settled: Claim) -> Step:
    settlements = [harness.settlement(claim) for claim in settled]
    return harness.step(settlements, harness.want(claims=PARTITIONS))


def begin_outage(harness: Harness, runner: Severed, *containers: int) -> None:
    """Some cannot be reached any more, and a worker meets that."""
    runner.down.update(containers)
    for _ in range(PARTITIONS):  # in turn, so that each is the first once
        assert claims(harness) == {}
    runner.calls.clear()


# Claiming


def test_a_round_that_begins_with_who_is_away_goes_on(harness: Harness, runner: Severed) -> None:
    fill(harness)
    runner.down.add(2)
    runner.calls.clear()
    found = [names(harness.take()) for _ in range(PARTITIONS - 1)]
    assert sorted(found) == [["1 0"], ["3 0"], ["4 0"]]
    assert runner.asked(2) == ["step"]


def test_who_is_away_is_not_waited_for_again(harness: Harness, runner: Severed) -> None:
    begin_outage(harness, runner, 2)
    fill(harness, 1, 3, 4, times=3)
    for number in range(3):
        found = claims(harness)
        assert {names(claim)[0] for claim in found.values()} == {f"{c} {number}" for c in (1, 3, 4)}
        assert harness.step([harness.settlement(one) for one in found.values()], None).lost == []
    assert runner.asked(2) == []


def test_those_of_one_server_are_waited_for_once(harness: Harness, runner: Severed) -> None:
    fill(harness)
    runner.down |= {1, 2, 3}
    while not (found := claims(harness)):
        pass
    assert found.keys() == {4}
    failed = [where for name, where in runner.calls if name == "step" and where != 4]
    assert len(failed) == 1


def test_who_is_back_is_served_again(harness: Harness, runner: Severed, time: Time) -> None:
    begin_outage(harness, runner, 2)
    runner.down.clear()
    fill(harness, 2)
    assert claims(harness) == {}
    time.now += 1.1
    assert claims(harness).keys() == {2}


def test_the_pauses_grow_up_to_ten_seconds(harness: Harness, runner: Severed, time: Time) -> None:
    begin_outage(harness, runner, 2)
    asked_at = []
    for second in range(1, 42):
        time.now += 1
        claims(harness)
        if runner.asked(2):
            asked_at.append(second)
    assert asked_at == [1, 3, 7, 15, 25, 35]


def test_the_first_success_ends_it(harness: Harness, runner: Severed, time: Time) -> None:
    begin_outage(harness, runner, 2)
    for _ in range(10):
        time.now += 10
        claims(harness)
    runner.down.clear()
    time.now += 10
    claims(harness)
    begin_outage(harness, runner, 2)
    time.now += 1.1
    claims(harness)
    assert runner.asked(2) == ["records"]


def test_who_answers_but_refuses_is_left_out_too(
    harness: Harness, runner: Severed, time: Time
) -> None:
    fill(harness, times=3)
    runner.refusing.add(2)
    for _ in range(3):
        time.now += 100
        found = claims(harness)
        assert found.keys() <= {1, 3, 4}
        assert harness.step([harness.settlement(one) for one in found.values()], None).lost == []
    claims(harness)
    runner.calls.clear()
    claims(harness)
    assert runner.asked(2) == []


@pytest.mark.parametrize("where", ["down", "refusing"])
def test_an_outage_is_told_once(
    harness: Harness,
    runner: Severed,
    time: Time,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    caplog.set_level(logging.INFO, "taskyard.redis")
    getattr(runner, where).update({2, 3})
    for _ in range(20):
        time.now += 3
        claims(harness)
    getattr(runner, where).clear()
    time.now += 10
    claims(harness)
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    if where == "down":
        assert warned == [
            "partitions {2}, {3} cannot be reached; others are served meanwhile: "
            f"no answer of {warned[0][-1]}"
        ]
    else:  # nothing tells before that both refuse
        assert sorted(text[:14] for text in warned) == ["partition {2} ", "partition {3} "]
    ended = [one.getMessage() for one in caplog.records if one.levelno == logging.INFO]
    assert sorted(ended) == [f"partition {{{one}}} can be reached again" for one in (2, 3)]


def test_where_nobody_can_be_reached_nobody_is_left_out(harness: Harness, runner: Severed) -> None:
    fill(harness)
    runner.down |= SHARDS.keys()
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            claims(harness)
    runner.down.clear()
    assert claims(harness).keys() == SHARDS.keys()


def test_an_outage_that_spreads_to_all_ends_at_once(harness: Harness, runner: Severed) -> None:
    begin_outage(harness, runner, 2)
    fill(harness, 1)
    runner.down |= SHARDS.keys()
    with pytest.raises(BrokerUnavailable):
        claims(harness)
    runner.down.clear()
    assert claims(harness).keys() == {1}


def test_one_partition_is_tried_as_ever(redis_server: RedisServer) -> None:
    broker = RedisBroker(parse_url(f"{redis_server.url}?prefix=work-{uuid.uuid4().hex[:8]}"))
    runner = Severed(broker)
    harness = Harness(broker, runner, Clock())
    harness.put("a")
    runner.down.add(0)
    runner.calls.clear()
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            harness.claims()
    assert runner.asked(0) == ["step"] * 3
    runner.down.clear()
    assert names(harness.take()) == ["a"]
    assert runner.asked(0) == ["step"]
    harness.close()


# Settling


def test_what_cannot_be_settled_now_is_settled_later(
    harness: Harness, runner: Severed, time: Time
) -> None:
    fill(harness, times=2)
    found = claims(harness)
    runner.down.add(2)
    step = settle_and_claim(harness, *found.values())
    assert step.lost == []
    assert {TOKENS.inside(claim.token)[0] for claim in step.claims} == {1, 3, 4}
    runner.down.clear()
    time.now += 1.1
    step = settle_and_claim(harness, *step.claims)
    assert step.lost == []
    assert [names(claim) for claim in step.claims] == [["2 1"]]
    assert harness.total("done") == 7


def test_what_is_kept_is_sent_when_all_slots_are_taken(
    harness: Harness, runner: Severed, time: Time
) -> None:
    fill(harness, times=2)
    found = claims(harness)
    runner.down.add(2)
    settle_and_claim(harness, found[2])
    runner.down.clear()
    time.now += 1.1
    assert harness.step([harness.settlement(found[1])], None).lost == []
    assert harness.total("done") == 2


def test_leases_are_renewed_where_that_is_possible(harness: Harness, runner: Severed) -> None:
    fill(harness)
    held = claims(harness)
    runner.down = {1}
    tokens, unknown = [claim.token for claim in held.values()], list[int]()
    assert harness.run(harness.broker.extend(tokens, 60_000_000, unknown)) == []
    assert unknown == [held[1].token]
    with pytest.raises(BrokerUnavailable):
        harness.run(harness.broker.extend(tokens, 60_000_000))
    runner.down = set(held)
    with pytest.raises(BrokerUnavailable):
        harness.run(harness.broker.extend(tokens, 60_000_000, unknown))


def test_claims_of_the_dead_are_taken_back_where_that_is_possible(
    harness: Harness, runner: Severed
) -> None:
    fill(harness)
    held = claims(harness)
    runner.down = {1}
    with pytest.raises(BrokerUnavailable):
        harness.run(harness.broker.reap(["worker"]))
    runner.down.clear()
    assert harness.run(harness.broker.reap(["worker"])) == 1, "the others were taken back before"
    assert len(held) == PARTITIONS


def test_a_claim_that_is_settled_in_parts_is_settled_in_order(
    harness: Harness, runner: Severed, time: Time
) -> None:
    harness.put_all(Put(TASK, [body("a"), body("b")], SHARDS[2]))
    claim = harness.take(2)
    runner.down.add(2)
    first, last = harness.settlement(claim, keep=["b"]), harness.settlement(claim)
    for settlement in (first, last):
        assert harness.step([settlement], None) == Step([], [], 0)
    runner.down.clear()
    time.now += 1.1
    step = harness.step([], harness.want())
    assert (step.lost, step.claims) == ([], [])
    counts = harness.counts()
    assert (counts.totals["done"], counts.running) == (2, 0)


def test_who_is_back_too_late_is_told(harness: Harness, runner: Severed, time: Time) -> None:
    fill(harness, 2)
    claim = harness.take(lease=10)
    runner.down.add(2)
    assert settle_and_claim(harness, claim).lost == []
    runner.down.clear()
    harness.clock.advance(11)
    harness.reap()
    time.now += 1.1
    assert settle_and_claim(harness).lost == [claim.token]


def test_where_nobody_can_be_reached_nothing_is_kept(harness: Harness, runner: Severed) -> None:
    fill(harness)
    settlements = [harness.settlement(claim) for claim in claims(harness).values()]
    runner.down |= SHARDS.keys()
    wants: list[Want | None] = [harness.want(), None]
    for want in wants:
        with pytest.raises(BrokerUnavailable):
            harness.step(settlements, want)
    runner.down.clear()
    assert harness.step(settlements, harness.want()).lost == []
    assert harness.total("done") == PARTITIONS
    assert harness.step([], harness.want()).lost == []


def test_what_was_kept_and_fails_again_is_still_kept(
    harness: Harness, runner: Severed, time: Time
) -> None:
    fill(harness)
    found = claims(harness)
    runner.refusing.add(2)
    settle_and_claim(harness, found[2])
    for _ in range(3):
        time.now += 10
        assert settle_and_claim(harness).lost == []
    runner.refusing.clear()
    time.now += 10
    assert settle_and_claim(harness).lost == []
    assert harness.total("done") == 1


def test_who_drains_does_not_take_who_is_away_for_empty(
    harness: Harness, runner: Severed, time: Time
) -> None:
    fill(harness, 1, 2)
    runner.down.add(2)
    assert names(harness.take(drain=True)) == ["1 0"]
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="no answer of 2"):
            harness.claims(drain=True)
    runner.down.clear()
    time.now += 10
    assert names(harness.take(drain=True)) == ["2 0"]


def test_who_drains_may_settle_again_what_was_refused(
    harness: Harness, runner: Severed, time: Time
) -> None:
    fill(harness, 2)
    settlement: Settlement = harness.settlement(harness.take())
    runner.down.add(2)
    with pytest.raises(BrokerUnavailable):
        harness.step([settlement], harness.want(drain=True))
    runner.down.clear()
    time.now += 10
    assert harness.step([settlement], harness.want(drain=True)).lost == []
    assert harness.total("done") == 1


def test_what_was_settled_as_who_drains_finds_nothing_is_settled(
    harness: Harness, runner: Severed, time: Time
) -> None:
    fill(harness, 1, 2)
    found = claims(harness)
    runner.down.add(2)
    settlements = [harness.settlement(claim) for claim in found.values()]
    step = harness.step(settlements, harness.want(drain=True))
    assert step == Step([], [], harness.clock.now, step.next_at, partial=True)
    assert step.next_at == harness.clock.now + micros(1)
    with pytest.raises(BrokerUnavailable, match="no answer of 2"):
        harness.claims(drain=True)
    runner.down.clear()
    time.now += 10
    assert harness.step([], harness.want(drain=True)) == Step([], [], harness.clock.now)
    assert harness.total("done") == 2


def test_who_drains_is_told_of_what_was_kept_and_lost(
    harness: Harness, broker: RedisBroker, runner: Severed, time: Time
) -> None:
    fill(harness, 2)
    claim = harness.take()
    runner.down = {2}
    assert settle_and_claim(harness, claim).lost == []
    elsewhere = RedisBroker(broker._options, clock=harness.clock)
    assert runner._driver.run(elsewhere.step([harness.settlement(claim)], None)).lost == []
    runner.down = {1}
    time.now += 1.1
    step = harness.step([], harness.want(drain=True))
    assert (step.lost, step.claims, step.partial) == ([claim.token], [], True)


def test_what_was_settled_before_shards_are_looked_for_is_settled(
    harness: Harness, runner: Severed
) -> None:
    fill(harness, 1)
    claim = harness.take()
    call = runner._call

    def moved(one: Call) -> Any:
        reply = call(one)
        if (one.script.name, one.tag) == ("step", "1"):
            runner.down = {0, *SHARDS}
            return [*reply, 1]
        return reply

    runner._call = moved  # type: ignore[method-assign]
    want = harness.want(listener=harness.sleeper())
    step = harness.step([harness.settlement(claim)], want)
    assert (step.lost, step.claims, step.partial) == ([], [], True)
    assert step.next_at == step.now, "it is to look again"
    with pytest.raises(BrokerUnavailable):
        harness.step([], want)
    runner.down.clear()
    assert harness.total("done") == 1


def test_who_is_here_only_for_what_is_kept_is_told_of_too() -> None:
    absences = Absences()
    absences.keep(2, [Settlement(5)])
    assert absences.error([1, 3]) is None
    assert str(absences.error([1, 2])).startswith("partition {2}: what is to be settled there")


def test_a_step_that_is_asked_again_renews_what_it_claimed(
    harness: Harness, broker: RedisBroker, runner: Severed, redis_server: RedisServer
) -> None:
    """Nobody could do so before: the answer was lost."""
    fill(harness, 1)
    call, client, numbers = runner._call, redis_server.client(), itertools.count(1)

    def unheard(one: Call) -> Any:
        if one.script.name != "step":
            return call(one)
        key = container_key(broker._options.prefix, one.tag)
        number = next(numbers)
        for _ in range(2):
            harness.clock.advance(20)
            arguments = (key, "slot", number, harness.clock.now, *one.args)
            reply = client.eval(one.script.source, 1, *arguments)
        return reply

    runner._call = unheard  # type: ignore[method-assign]
    claim = harness.take(lease=30)
    assert claim.deadline == harness.clock.now + micros(30)
    runner._call = call  # type: ignore[method-assign]
    harness.clock.advance(20)
    assert harness.reap() == 0
    harness.clock.advance(11)
    assert harness.reap() == 1


# Sleeping


def asleep(harness: Harness) -> tuple[Sleeper, Step]:
    """Somebody who found nothing, and what was told."""
    sleeper = harness.sleeper()
    return sleeper, harness.step([], harness.want(listener=sleeper))


def test_who_finds_nothing_sleeps_where_it_can(harness: Harness, runner: Severed) -> None:
    runner.down.add(2)
    sleeper, _ = asleep(harness)
    for container in (1, 3, 4):
        fill(harness, container)
        assert sleeper.is_woken()
        found = harness.take(listener=sleeper)
        assert harness.settle(found)
        assert harness.claim(listener=sleeper) is None
    assert "leave" not in runner.asked(2)


def test_one_that_fails_as_somebody_falls_asleep_hinders_no_other(
    harness: Harness, runner: Severed
) -> None:
    looks: list[int] = []
    call = runner._call

    def fails_later(one: Call) -> Any:
        looks.append(int(one.tag))
        runner.down = {2} if looks.count(2) > 1 else set()
        return call(one)

    runner._call = fails_later  # type: ignore[method-assign]
    sleeper, step = asleep(harness)
    assert step.next_at == harness.clock.now + micros(1)
    for container in (1, 3, 4):
        fill(harness, container)
        assert sleeper.is_woken()
        assert harness.claim(listener=sleeper) is not None
        assert harness.claim(listener=sleeper) is None


def test_who_sleeps_looks_again_when_the_pause_is_over(
    harness: Harness, runner: Severed, time: Time
) -> None:
    begin_outage(harness, runner, 2)
    for seconds in (1, 2, 4, 8, 10, 10):
        _, step = asleep(harness)
        assert step.next_at == harness.clock.now + micros(seconds)
        time.now += seconds


def test_what_waits_for_its_time_comes_first(harness: Harness, runner: Severed) -> None:
    begin_outage(harness, runner, 2)
    harness.put("soon", shard=SHARDS[1], delay=0.5)
    _, step = asleep(harness)
    assert step.next_at == harness.clock.now + micros(0.5)


def test_claims_are_not_lost_if_nobody_can_be_told_that_one_is_awake(
    harness: Harness, runner: Severed
) -> None:
    sleeper, _ = asleep(harness)
    fill(harness, 1)
    runner.down |= {2}
    assert names(harness.take(listener=sleeper)) == ["1 0"]


# What the drivers know of it


@pytest.fixture(params=KINDS)
def one(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Driven]:
    with driven(str(request.param), redis_server.url) as made:
        yield made


def test_each_call_has_its_own_outcome(one: Driven) -> None:
    def operation() -> Operation[list[Any]]:
        return (yield Each(Call(SAY, text, [text]) for text in ("1", "nil + 1", "2")))

    first, error, last = one.run(operation())
    assert (first, last) == (1, 2)
    assert isinstance(error, BrokerError)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hasty_call_is_not_tried_again(kind: str, redis_binary: Binary) -> None:
    with RedisServer(binary=redis_binary) as server:
        url = server.url
    with (
        driven(kind, url, retry=600.0) as one,
        pytest.raises(BrokerUnavailable, match="tried once"),
    ):
        one.run(_single(Call(SAY, "t", ["1"], retry=0.0)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hasty_call_does_not_wait_for_who_hangs(kind: str, redis_binary: Binary) -> None:
    hasty = Call(SAY, "t", ["1"], retry=0.0, timeout=0.3)
    patient = Call(SAY, "t", ["1"], retry=0.0)
    with (
        RedisServer(binary=redis_binary) as server,
        driven(kind, server.url, timeout=100.0, retry=600.0) as one,
    ):
        assert one.run(_single(patient)) == 1
        server.stop_process()
        with pytest.raises(BrokerUnavailable, match="no answer in time"):
            one.run(_single(hasty))
        server.cont()
        assert one.run(_single(patient)) == 1
