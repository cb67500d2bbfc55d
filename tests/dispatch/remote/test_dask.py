"""Calls on a Dask cluster: a scheduler and workers in processes of their own."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Client, Event
from tests.dispatch.remote.conftest import Cluster
from tests.servers.server import free_port

from taskyard import Retry, run, stream
from taskyard.dispatch.calls import Call
from taskyard.dispatch.outcome import Status
from taskyard.errors import BrokerUnavailable, PolicyError, RunFailed, WorkerError

# The first one waits for the cluster, too.
pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    address = cluster.url.replace("dask://", "tcp://")
    with Client(address, timeout=20, set_as_default=False) as made:
        made.wait_for_workers(2, timeout=45)  # one that died comes back
        yield made


def where(number: int) -> int:
    time.sleep(0.01)
    return os.getpid()


def test_calls_are_made_in_the_cluster(cluster: Cluster, client: Client) -> None:
    done = run(where, 200, on=cluster.url)
    places = set(done.results())
    assert os.getpid() not in places
    assert len(places) == 2
    assert (done.info.kind, done.info.workers) == ("dask", 4)
    assert done.counts.completed == 200
    for outcome in done.log:
        assert done.started <= outcome.started <= outcome.ended <= done.ended
        assert outcome.duration >= 0.009


def test_closures_travel_and_a_client_stays_open(client: Client) -> None:
    factor = 3
    assert run(lambda number: factor * number, 1000, on=client).results() == [
        3 * number for number in range(1000)
    ]
    assert client.status == "running"


def test_errors_are_outcomes(client: Client) -> None:
    class Odd(Exception):
        pass

    def pick(number: int) -> int:
        if number % 2:
            raise Odd(f"{number} is odd")
        return number

    done = run(pick, 10, on=client)
    assert done.results(default=None) == [0, None, 2, None, 4, None, 6, None, 8, None]
    errors = [outcome.error for outcome in done.failures() if outcome.error]
    assert min(error.message for error in errors) == "1 is odd"
    assert "raise Odd" in errors[0].traceback


def test_calls_are_tried_again_and_know_themselves(client: Client) -> None:
    def pick(number: int, call: Call) -> int:
        call.metadata["number"] = number
        if call.attempt < 3:
            raise ValueError("again")
        return call.id

    done = run(pick, 4, on=client, retries=Retry(2, delay=0.01), context=True)
    assert done.results() == [1, 2, 3, 4]
    logs = sorted(done.log, key=lambda outcome: outcome.id)
    assert [(one.attempts, one.metadata["number"]) for one in logs] == [(3, n) for n in range(4)]


def test_what_cannot_travel_fails_alone(client: Client) -> None:
    def pick(number: int) -> Any:
        return (one for one in "abc") if number == 7 else number

    done = run(pick, 20, on=client)
    [failed] = done.failures()
    assert failed.error is not None
    assert (failed.id, "cannot be pickled" in failed.error.message) == (8, True)
    assert done.counts.completed == 19


def test_an_item_that_cannot_travel_fails_alone(client: Client) -> None:
    done = run(len, ["a", [threading.Lock()], "bc"], on=client)
    assert done.results(default=None) == [1, None, 2]
    [failed] = done.failures()
    assert failed.error is not None
    assert (failed.error.kind, failed.id) == ("PicklingError", 2)


def test_a_call_that_exits_is_a_failure(client: Client) -> None:
    def pick(number: int) -> int:
        if number == 2:
            sys.exit(3)
        return number

    [failed] = run(pick, 4, on=client).failures()
    assert (failed.id, failed.status) == (3, Status.FAILED)


def test_what_is_cancelled_at_the_end_is_told(client: Client) -> None:
    gate = Event("go", client=client)
    done = run(lambda number: Event("go").wait(20), 10, on=client, runtime=2, grace=0.2)
    gate.set()
    assert (done.counts.cancelled, done.counts.undispatched) == (4, 6)


def test_a_client_that_is_closed_in_the_middle_leaves_what_was_done(cluster: Cluster) -> None:
    with Client(cluster.url.replace("dask://", "tcp://"), set_as_default=False) as own:
        begun = threading.Event()

        def close() -> None:
            begun.wait(30)
            own.close()

        closing = threading.Thread(target=close)
        closing.start()
        with pytest.raises(RunFailed) as caught:
            run(where, 100_000, on=own, on_result=lambda _: begun.set())
        closing.join()
    counts = caught.value.run.counts
    assert counts.completed > 0
    assert counts.total == 100_000


def test_what_kills_its_worker_is_lost(client: Client) -> None:
    def pick(number: int) -> int:
        if number == 5:
            os._exit(1)
        return number

    done = run(pick, 40, on=client)
    lost = [outcome for outcome in done.failures() if outcome.status is Status.LOST]
    assert 6 in [outcome.id for outcome in lost]
    assert len(lost) <= 4, "only what was under way in that worker"
    assert done.counts.completed + done.counts.lost == 40, done.failures()


def test_a_plan_is_followed(client: Client) -> None:
    done = run(where, 30, on=client, rate=100)
    assert done.counts.completed == 30
    for outcome in done.log:
        assert outcome.planned == pytest.approx(done.started + (outcome.id - 1) / 100)
        assert outcome.started >= outcome.planned - 0.001


def test_items_are_taken_as_there_is_room(client: Client) -> None:
    taken = iter(range(10_000_000))
    outcomes = stream(where, taken, on=client, window=50)
    assert len([next(outcomes) for _ in range(60)]) == 60
    outcomes.close()
    assert next(taken) < 200


def test_wrong_use_says_what_is_right(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskyard.dispatch.remote.dask.PATIENCE", 0.2)
    with pytest.raises(BrokerUnavailable, match="there is no Dask scheduler at tcp://127"):
        run(where, 1, on=f"dask://127.0.0.1:{free_port()}")
    lock = threading.Lock()
    with pytest.raises(WorkerError, match="the function cannot be sent to Dask workers"):
        run(lambda number: lock, 1, on=client)
    with pytest.raises(PolicyError, match="timeout= has no effect on a Dask worker"):
        run(where, 1, on=client, timeout=1)

    async def waits(number: int) -> None: ...

    with pytest.raises(PolicyError, match="waits is async"):
        run(waits, 1, on=client)
    client.close()
    with pytest.raises(PolicyError, match="connected, and this one is closed"):
        run(where, 1, on=client)
