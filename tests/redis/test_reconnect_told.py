"""What is told of a server that does not answer: while it is tried, when it is over, in the end."""

from __future__ import annotations

import logging
import time

import pytest
from tests.redis.driving import ADD, KINDS, SAY, behind, call
from tests.servers.proxy import Proxy
from tests.servers.server import RedisServer, free_port, wait_until

from taskyard.brokers.redis import RedisBroker
from taskyard.brokers.redis.attempts import Exchange, Scene, Wire, perform
from taskyard.brokers.redis.calls import Call
from taskyard.brokers.redis.doorbell import PATIENCE
from taskyard.brokers.redis.drivers import RedisDriver
from taskyard.brokers.redis.failures import NotConfirmed, Refusal, exhausted
from taskyard.brokers.redis.options import Address, parse_url
from taskyard.brokers.redis.outages import Outages
from taskyard.brokers.redis.scripts import NAMES, READING, UNCONFIRMED, load_script
from taskyard.brokers.redis.topology import Cluster
from taskyard.errors import BrokerUnavailable

HERE, THERE = Address("here", 1), Address("there", 2)
AWAY = ConnectionRefusedError(111, "")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    made: str = request.param
    return made


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "taskyard.redis")
    return caplog


def lines(told: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in told.records]


def of(name: str, tag: str = "0", *args: str) -> Call:
    return Call(load_script(name), tag, args)


# Drivers


def test_an_outage_is_told_once_by_all_calls_and_its_end_too(
    kind: str, redis_server: RedisServer, told: pytest.LogCaptureFixture
) -> None:
    with behind(redis_server, kind, retry=600.0) as (proxy, one):
        begins = f"Redis at {proxy.address}: Connection refused; trying again for 600 s"
        for outage in (1, 2):
            told.clear()
            proxy.refuse()
            begun = [one.begin(call(ADD, "x")) for _ in range(4)]
            wait_until(lambda: told.records != [], "a warning")
            assert not any(each.done() for each in begun)
            proxy.resume()
            assert max(each.result() for each in begun) == 4 * outage
            ends = f"Redis at {proxy.address} answers again"
            assert lines(told) == [("WARNING", begins), ("INFO", ends)]


@pytest.mark.parametrize("stale", ["yes", "no"], ids=["READONLY", "MASTERDOWN"])
def test_who_is_back_but_refuses_does_not_answer_again(
    kind: str, stale: str, redis_binary: object, told: pytest.LogCaptureFixture
) -> None:
    config = {"replica-serve-stale-data": stale}
    with RedisServer(config=config) as server, behind(server, kind, retry=600.0) as (proxy, one):
        proxy.refuse()
        begun = one.begin(call(ADD, "x"))
        wait_until(lambda: told.records != [], "a warning")
        server.client().replicaof("127.0.0.1", free_port())
        proxy.resume()
        before = proxy.counters().round_trips
        wait_until(lambda: proxy.counters().round_trips > before + 10, "refusals")
        server.client().replicaof("NO", "ONE")
        assert begun.result() == 1
    assert [level for level, _ in lines(told)] == ["WARNING", "INFO"]


def test_what_is_not_tried_again_is_not_told_beforehand(
    kind: str, redis_server: RedisServer, told: pytest.LogCaptureFixture
) -> None:
    with behind(redis_server, kind, retry=0.0) as (proxy, one):
        proxy.refuse()
        with pytest.raises(BrokerUnavailable, match="tried once"):
            one.run(call(ADD, "x"))
    assert lines(told) == []


def test_the_doorbell_speaks_of_the_same_outage(
    redis_server: RedisServer, told: pytest.LogCaptureFixture
) -> None:
    with Proxy((redis_server.host, redis_server.port)) as proxy:
        proxy.refuse()
        driver = RedisDriver(parse_url(f"redis://{proxy.address}?retry=600"))
        listeners = [driver.listener() for _ in range(2)]
        wait_until(lambda: told.records != [], "a warning")
        assert [level for level, _ in lines(told)] == ["WARNING"]
        assert "Connection refused; trying again" in told.text
        proxy.resume()
        assert driver.run(call(SAY, "1")) == 1
        for listener in listeners:
            assert listener.wait(60 * PATIENCE), "it may have missed something"
        driver.close()
    assert [level for level, _ in lines(told)] == ["WARNING", "INFO"]


def test_the_doorbell_tells_in_the_same_words_what_only_it_meets(
    redis_binary: object, told: pytest.LogCaptureFixture
) -> None:
    with RedisServer(users=["w on >secret ~* resetchannels +@all"]) as server:
        address = f"{server.host}:{server.port}"
        driver = RedisDriver(parse_url(f"redis://w:secret@{address}"))
        driver.listener()
        wait_until(lambda: told.records != [], "a warning")
        driver.close()
    [(level, text)] = lines(told)
    assert level == "WARNING"
    assert f"Redis at {address}: the ACL of this user forbids it (NOPERM" in text


class TwoNodes(Cluster):
    """Each of which says that the other one serves everything."""

    def find(self, tag: str) -> Address:
        return super().find(tag) or HERE

    def look_up(self) -> None:
        self._doubted = False


@pytest.mark.parametrize("retry", [0.0, 0.01])
def test_a_call_that_a_cluster_sends_round_in_circles_is_told_as_that(
    retry: float, told: pytest.LogCaptureFixture
) -> None:
    options = parse_url(f"redis+cluster://here:1?retry={retry}")
    scene = Scene(options, None, None)
    scene.directory = TwoNodes(options)
    course = perform(scene, [of("put")], [Wire()])
    request = next(course)
    while True:
        replies = []
        if isinstance(request, Exchange):
            other = THERE if request.parcels[0].address == HERE else HERE
            replies.append([Refusal("MOVED", f"1 {other}")])
        try:
            request = course.send(replies)
        except StopIteration as end:
            [outcome] = end.value
            break
    assert isinstance(outcome, BrokerUnavailable)
    for text in (str(outcome), *told.messages):
        assert "the nodes of the cluster send the call from one to another (MOVED 1 " in text
        assert "redis-cli --cluster check" in text
        assert "redis+cluster://" not in text
    assert "nothing was stored" in str(outcome)


# Which answers end an outage


def test_any_answer_ends_the_outage_of_a_server_that_was_away(
    told: pytest.LogCaptureFixture,
) -> None:
    outages = Outages()
    outages.begin(HERE, AWAY, "waiting", [of("put", "1")])
    outages.answered(THERE, [of("step", "2")])
    assert outages.any, "somebody else answered"
    outages.answered(HERE, [of("counts", "2")])
    assert not outages.any
    assert [level for level, _ in lines(told)] == ["WARNING", "INFO"]


def test_after_a_failover_somebody_else_ends_it(told: pytest.LogCaptureFixture) -> None:
    outages = Outages()
    outages.begin(HERE, AWAY, "waiting", [of("put", "1"), of("put", "2")])
    outages.answered(THERE, [of("step", "1")])
    assert outages.any, "a part of it is still away"
    outages.answered(THERE, [of("step", "2")])
    assert lines(told)[-1] == ("INFO", "Redis at there:2 answers again")
    outages.begin(HERE, AWAY, "waiting", [of("put", "1")])
    assert len(lines(told)) == 3, "it is another outage"


def test_a_failure_that_is_noted_when_all_is_over_is_no_news(
    told: pytest.LogCaptureFixture,
) -> None:
    outages = Outages()
    began = time.monotonic()
    outages.begin(HERE, AWAY, "waiting", [of("put", "1")], since=began)
    outages.answered(HERE, [of("put", "1")])
    outages.begin(HERE, AWAY, "waiting", [of("put", "2")], since=began)
    assert not outages.any
    assert [level for level, _ in lines(told)] == ["WARNING", "INFO"]
    outages.begin(HERE, AWAY, "waiting", [of("put", "2")], since=time.monotonic())
    assert outages.any
    outages.begin(THERE, AWAY, "waiting", [of("put", "2")], since=began)
    assert len(lines(told)) == 4, "nobody has answered there"


def test_who_refuses_writes_is_not_well_because_it_reads(told: pytest.LogCaptureFixture) -> None:
    outages = Outages()
    for _ in range(3):
        outages.begin(HERE, Refusal("OOM", "no room"), "waiting", [of("put")])
        outages.answered(HERE, [of("counts")])
    assert len(lines(told)) == 1
    outages.answered(HERE, [of("put")])
    assert not outages.any


def test_the_drivers_of_a_broker_share_its_outages(told: pytest.LogCaptureFixture) -> None:
    broker = RedisBroker(parse_url("redis://127.0.0.1:1?retry=0.3"))
    for _ in range(2):
        driver = broker.driver()
        with pytest.raises(BrokerUnavailable):
            driver.run(broker.counts())
        driver.close()
    assert len(lines(told)) == 1


# In the end


@pytest.mark.parametrize("doubtful", [False, True])
@pytest.mark.parametrize("name", sorted(READING))
def test_who_only_reads_says_nothing_of_storing(name: str, doubtful: bool) -> None:
    error = exhausted(of(name, "0", "x"), HERE, AWAY, 10.0, doubtful=doubtful)
    assert str(error) == "Redis at here:1: Connection refused; tried for 10.0 s"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (of("put", "0", "x"), "nothing was stored"),
        (of("places", "0", "queue", "0"), "nothing was stored"),
        (of("step", "0", "x"), "nothing was changed"),
        (of("release", "0", "x"), "nothing was changed"),
    ],
)
def test_the_others_say_what_did_not_happen(given: Call, text: str) -> None:
    assert str(exhausted(given, HERE, AWAY, 0, doubtful=False)).endswith(f"tried once; {text}")
    assert "not known whether" in str(exhausted(given, HERE, AWAY, 0, doubtful=True))


def test_looking_up_all_containers_only_reads() -> None:
    error = exhausted(of("places"), HERE, AWAY, 1.0, doubtful=False)
    assert str(error).endswith("tried for 1.0 s")


def test_what_replicas_lack_is_said_as_it_is() -> None:
    error = exhausted(of("put"), HERE, NotConfirmed("too few"), 1.0, doubtful=True)
    assert isinstance(error, NotConfirmed)
    assert str(error) == "too few; tried for 1.0 s"


def test_what_reads_needs_no_replicas() -> None:
    assert READING < UNCONFIRMED < {*NAMES}
