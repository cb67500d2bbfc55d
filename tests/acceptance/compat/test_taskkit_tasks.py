"""taskkit's front door: what becomes of tasks, and what is told of it. One worker does them all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from tests.acceptance.compat.taskkit_program import Handler
from tests.acceptance.compat.taskkit_scene import PATIENCE, Scene
from tests.faults.scene import until
from tests.servers.server import RedisServer

from taskyard.compat.taskkit import (
    DEFAULT_TASK_TTL,
    DiscardTask,
    Failed,
    NotFound,
    ResultGetTimedOut,
    Task,
)
from taskyard.compat.taskkit.impl.redis import make_kit
from taskyard.errors import (
    BrokerError,
    EnqueueError,
    PayloadError,
    PolicyError,
    QueueFull,
    WorkerError,
)

GROUPS = ["g", "a/b c", "", "50%", "line\nbreak", "größe 🎈", "{brace}", "%"]


@pytest.fixture(scope="module")
def running(
    shared_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    with shared_server.client() as client:
        client.flushall()
    scene = Scene(shared_server.url, tmp_path_factory.mktemp("taskkit"))
    scene.start(groups=dict.fromkeys(GROUPS, 2))
    yield scene
    scene.close()


@pytest.fixture
def scene(running: Scene) -> Scene:
    running.client.delete("test:began")
    return running


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_may_have_any_name(scene: Scene, group: str) -> None:
    found = scene.do("facts", group=group).get(PATIENCE)
    assert found[1:4] == [group, "t", 0]


def test_what_a_handler_sees_of_a_task(scene: Scene) -> None:
    before = time.time()
    result = scene.do("facts", name="x", ttl=100)
    id_, group, name, retry_count, due, created, ttl = result.get(PATIENCE)
    assert (id_, group, name, retry_count, ttl) == (result.task_id, "g", "x", 0, 100)
    assert before <= created == due <= time.time()
    assert scene.do("facts").get(PATIENCE)[6] == DEFAULT_TASK_TTL == 7 * 86_400


@pytest.mark.parametrize("kind", ["naive", "aware", "seconds"])
def test_a_task_is_not_run_before_it_is_due(scene: Scene, kind: str) -> None:
    moment = time.time() + 0.3
    due: Any = {
        "naive": datetime.fromtimestamp(moment),  # noqa: DTZ006 - local time
        "aware": datetime.fromtimestamp(moment, UTC),
        "seconds": moment,
    }[kind]
    found = scene.do("facts", due=due).get(PATIENCE)
    assert found[4] == pytest.approx(moment)
    assert time.time() >= moment


def test_what_was_due_before_is_run_now(scene: Scene) -> None:
    due = datetime.now(UTC) - timedelta(days=1)
    assert scene.do("facts", due=due).get(PATIENCE)[4] == due.timestamp()


def test_data_of_any_bytes(scene: Scene) -> None:
    text = "ü\x00" * 600_000
    assert scene.do("echo", value=text).get(PATIENCE) == text


def test_who_waits_is_woken(scene: Scene) -> None:
    result = scene.do("hold", key="woken")
    found: list[int] = []
    waiter = threading.Thread(target=lambda: found.append(result.get(PATIENCE)))
    waiter.start()
    began = scene.began()
    scene.go("woken")
    waiter.join(PATIENCE)
    assert found == [began["pid"]]


def test_a_result_is_found_by_the_id_of_its_task(scene: Scene) -> None:
    task_id = scene.do("echo", value=[1, "a"]).task_id
    result = scene.kit.get_result(task_id)
    assert result.get(PATIENCE) == [1, "a"]
    assert result.task_id == task_id


def test_a_client_that_decodes_replies_works_as_well(scene: Scene) -> None:
    client = redis.Redis.from_url(scene.url, decode_responses=True)
    kit = make_kit(client, Handler(scene.url))
    result = kit.initiate_task("g", "t", {"do": "echo", "value": "ü"})
    assert result.get(PATIENCE) == "ü"
    kit.yard.close()
    client.close()


# Retries and failures


def test_a_failure_without_an_interval(scene: Scene) -> None:
    result = scene.do("fail", name="bad", key="f")
    with pytest.raises(Failed) as failed:
        result.get(PATIENCE)
    assert failed.value.task.id == result.task_id
    assert failed.value.message.startswith("Traceback")
    assert failed.value.message.rstrip().endswith("ValueError: attempt 0")
    assert "bad" in str(failed.value)


def test_a_failure_is_told_with_its_task_by_id(scene: Scene) -> None:
    result = scene.do("fail", name="bad", key="by id", interval=0, retries=1)
    with pytest.raises(Failed) as failed:
        scene.kit.get_result(result.task_id).get(PATIENCE)
    task = failed.value.task
    assert (task.id, task.group, task.name, task.retry_count) == (result.task_id, "g", "bad", 1)
    assert b'"by id"' in task.data


def test_a_failure_whose_dead_letter_is_gone(scene: Scene) -> None:
    result = scene.do("fail")
    with pytest.raises(Failed):
        result.get(PATIENCE)
    letter = scene.kit.yard.dead.find(result.task_id)
    assert letter is not None
    scene.kit.yard.dead.discard([letter.number])
    with pytest.raises(NotFound, match="discarded"):
        scene.kit.get_result(result.task_id).get(0)


def test_a_failure_is_tried_again_after_the_interval(scene: Scene) -> None:
    began = time.monotonic()
    result = scene.do("fail", key="r", interval=0.2, retries=2)
    assert [scene.began()["retry_count"] for _ in range(3)] == [0, 1, 2]
    assert time.monotonic() - began >= 0.4
    with pytest.raises(Failed, match="attempt 2") as failed:
        result.get(PATIENCE)
    assert failed.value.task.retry_count == 2


def test_an_interval_may_be_negative(scene: Scene) -> None:
    result = scene.do("fail", interval=-5, retries=1)
    with pytest.raises(Failed, match="attempt 1"):
        result.get(PATIENCE)


@pytest.mark.parametrize(
    "interval", [float("inf"), 1e300, 10**400], ids=["inf", "1e300", "10**400"]
)
def test_an_interval_may_be_longer_than_anybody_lives(scene: Scene, interval: float) -> None:
    ages = datetime.now(UTC) + timedelta(days=36_000)  # the longest delay is a century
    task_id = scene.do("fail", key="late", interval=interval, retries=1).task_id

    def waits() -> bool:
        found = scene.kit.yard.explain(task_id).until
        return found is not None and found > ages

    until(waits, "it waits for its next attempt")
    scene.kit.yard.cancel(task_id)


def test_get_retry_interval_that_fails_means_to_try_again(scene: Scene) -> None:
    result = scene.do("fail", key="broken", broken_retry=True)
    first, second = scene.began(), scene.began()
    assert (first["retry_count"], second["retry_count"]) == (0, 1)
    scene.kit.yard.cancel(result.task_id)
    with pytest.raises(NotFound, match="cancelled"):
        result.get(PATIENCE)


@pytest.mark.parametrize("more", [{"do": "discard"}, {"do": "fail", "discard_retry": True}])
def test_a_discarded_task_is_not_found(scene: Scene, more: dict[str, Any]) -> None:
    result = scene.do(more.pop("do"), **more)
    with pytest.raises(NotFound):
        result.get(PATIENCE)
    with pytest.raises(NotFound):
        scene.kit.get_result(result.task_id).get(0)


def test_a_result_that_cannot_be_encoded_is_a_failure(scene: Scene) -> None:
    class Broken(Handler):
        def encode_result(self, task: Task, result: Any) -> bytes:
            return 5  # type: ignore[return-value]

    kit = make_kit(redis.Redis.from_url(scene.url), Broken(scene.url))
    with pytest.raises(Failed, match="encode_result must return bytes, not int"):
        kit.initiate_task("g", "t", {"do": "echo", "value": 1}, eager=True).get()


# Waiting


def test_waiting_ends_with_its_time(scene: Scene) -> None:
    result = scene.do("hold", key="late")
    scene.began()
    for timeout in (0.2, 0, -1):
        with pytest.raises(ResultGetTimedOut):
            result.get(timeout)
    scene.go("late")
    assert result.get(timeout=PATIENCE) > 0


def test_waiting_inside_a_handler_is_prevented_and_not_tried_again(scene: Scene) -> None:
    other = scene.do("echo", value=5)
    result = scene.do("ask", id=other.task_id, avoid=False, interval=0, retries=5)
    with pytest.raises(Failed, match=r"ResultGetPrevented.*avoid_assertion=True") as failed:
        result.get(PATIENCE)
    assert failed.value.task.retry_count == 0
    assert scene.do("ask", id=other.task_id, avoid=True).get(PATIENCE) == 5


def test_a_result_is_discarded_when_its_time_to_live_is_over(scene: Scene) -> None:
    short, usual = scene.do("echo", value=1, ttl=0.1), scene.do("echo", value=2)
    assert usual.get(PATIENCE) == 2

    def is_gone() -> bool:
        try:
            scene.kit.get_result(short.task_id).get(PATIENCE)
        except NotFound:
            return True
        return False

    until(is_gone, "the result is gone")
    assert scene.kit.get_result(usual.task_id).get(0) == 2


def test_there_never_was_such_a_task(scene: Scene) -> None:
    with pytest.raises(NotFound):
        scene.kit.get_result("nobody").get()


def test_a_message_of_somebody_else_is_no_task(scene: Scene) -> None:
    @scene.kit.yard.task(queue="other", name="other")
    def other() -> int:
        return 5

    message = other.enqueue()
    scene.kit.yard.run_worker(queues=["other"], burst=True)
    with pytest.raises(NotFound, match="no task of a kit"):
        scene.kit.get_result(message.id).get(0)


# Initiating many, and eagerly


def test_several_tasks_of_several_kinds(scene: Scene) -> None:
    soon = time.time() + 0.2
    data = b'{"do": "echo", "value": 3}'
    results = scene.kit.initiate_tasks(
        {"group": "g", "name": "t", "data": {"do": "echo", "value": 1}},
        {"group": "a/b c", "name": "t", "data": {"do": "echo", "value": 2}, "due": soon, "ttl": 9},
        Task.init("g", "t", data),
        (Task.init("g", "t", data), True),
        {"group": "g", "name": "t", "data": {"do": "echo", "value": 4}, "eager": True},
    )
    assert [result.get(PATIENCE) for result in results] == [1, 2, 3, 3, 4]
    assert scene.kit.initiate_tasks() == []


def test_a_task_with_an_id_of_its_own_and_its_times(scene: Scene) -> None:
    task = Task("mine", "g", "t", b'{"do": "note"}', time.time(), time.time() - 5, 7.0, 0, 60)
    (result,) = scene.kit.initiate_tasks(task)
    result.get(PATIENCE)
    noted = scene.began()
    assert (noted["id"], noted["scheduled"], noted["due"]) == ("mine", 7.0, task.due)
    with pytest.raises(EnqueueError, match="mine"):
        scene.kit.initiate_tasks(task)


def test_a_task_that_was_created_in_1970(scene: Scene) -> None:
    task = Task("old", "g", "t", b'{"do": "facts"}', 0.0, 0.0)
    (result,) = scene.kit.initiate_tasks(task)
    assert result.get(PATIENCE)[4:6] == [0.0, pytest.approx(0.0, abs=1e-3)]


def test_eager_tasks_run_in_the_caller(scene: Scene) -> None:
    scene.go("eager")
    assert scene.do("hold", key="eager", eager=True).get() == scene.began()["pid"] == os.getpid()
    failing = scene.do("fail", eager=True, interval=0, retries=3)
    with pytest.raises(Failed, match="attempt 0"):
        failing.get()
    with pytest.raises(NotFound):
        scene.do("discard", eager=True).get()
    other = scene.do("echo", value=1)
    with pytest.raises(Failed, match="ResultGetPrevented"):
        scene.do("ask", id=other.task_id, avoid=False, eager=True).get()
    assert other.get(PATIENCE) == 1


# Wrong use


def test_wrong_use_says_what_is_right(scene: Scene) -> None:
    kit = scene.kit
    with pytest.raises(PolicyError, match="characters at most"):
        kit.initiate_task("x" * 200, "t", {})
    with pytest.raises(PolicyError, match="a task group must be a text, not 5"):
        kit.initiate_task(5, "t", {})  # type: ignore[arg-type]
    with pytest.raises(EnqueueError, match="hundred years"):
        kit.initiate_task("g", "t", {}, due=1e12)
    wrong: Any
    for wrong in ("tomorrow", float("nan"), datetime.now(UTC).date()):
        with pytest.raises(EnqueueError, match="due must be a datetime or seconds"):
            kit.initiate_task("g", "t", {}, due=wrong)
    for wrong in (None, "60", timedelta(1), float("nan")):
        with pytest.raises(EnqueueError, match="ttl must be a number of seconds"):
            kit.initiate_tasks({"group": "g", "name": "t", "data": {}, "ttl": wrong})
    with pytest.raises(WorkerError, match="num_processes must be 1 or more"):
        kit.start(0, {"g": 1})
    with pytest.raises(WorkerError, match="0 or more for 'g', not -1"):
        kit.start_processes(1, {"g": -1})
    with pytest.raises(BrokerError, match="a client of redis-py"):
        make_kit(5, Handler(scene.url))


def test_start_is_for_the_main_thread(scene: Scene) -> None:
    with (
        ThreadPoolExecutor() as pool,
        pytest.raises(WorkerError, match=r"main thread .* use start_processes"),
    ):
        pool.submit(scene.kit.start, 1, {"g": 1}).result()


def test_a_bounded_group_that_is_full(scene: Scene) -> None:
    scene.kit.yard.bound("full", max_length=2)
    kept = [scene.do("echo", group="full") for _ in range(2)]
    with pytest.raises(QueueFull):
        scene.do("echo", group="full")
    with pytest.raises(ResultGetTimedOut):
        kept[0].get(0)


def test_data_that_is_not_encoded_to_bytes(scene: Scene) -> None:
    class Text(Handler):
        def encode_data(self, group: str, task_name: str, data: Any) -> bytes:
            return data  # type: ignore[no-any-return]

    kit = make_kit(redis.Redis.from_url(scene.url), Text(scene.url))
    given: Any
    for given in ('{"do": "echo", "value": 1}', bytearray(b'{"do": "echo", "value": 1}')):
        assert kit.initiate_task("g", "t", given).get(PATIENCE) == 1
    with pytest.raises(PayloadError, match="encode_data must return bytes, not dict"):
        kit.initiate_task("g", "t", {})
    kit.yard.close()


def test_the_times_of_a_task() -> None:
    task = Task.init("g", "n", b"", due=datetime(2026, 1, 1, tzinfo=UTC), scheduled=5.0, ttl=1)
    assert task.due_dt(UTC) == datetime(2026, 1, 1, tzinfo=UTC)
    assert task.due_dt().timestamp() == task.due
    assert task.created_dt(UTC).timestamp() == pytest.approx(task.created)
    assert task.scheduled_dt(UTC) == datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC)
    assert Task.init("g", "n", b"").scheduled_dt() is None
    assert not issubclass(DiscardTask, ValueError)
