"""taskkit's front door with real processes: workers that die, end, pause and are replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.compat.taskkit_program import Handler, go_key
from tests.acceptance.compat.taskkit_scene import PATIENCE, Scene
from tests.faults.scene import until
from tests.servers.server import RedisServer

from taskyard.compat.taskkit import Failed, Kit, ResultGetTimedOut
from taskyard.errors import BrokerUnavailable


@pytest.fixture
def scene(redis_server: RedisServer, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(redis_server.url, tmp_path)
    yield made
    made.close()


def test_a_task_whose_worker_is_killed_is_restored_and_run_again(scene: Scene) -> None:
    scene.start(processes=2)
    result = scene.do("hold", key="a")
    first = scene.began()
    os.kill(first["pid"], signal.SIGKILL)
    second = scene.began()
    assert (second["id"], second["retry_count"]) == (first["id"], 0)
    assert second["pid"] != first["pid"]
    scene.go("a")
    assert result.get(PATIENCE) == second["pid"]
    until(lambda: len(scene.kit.yard.workers()) == 2, "the dead worker is replaced")


def test_a_task_that_kills_its_worker_takes_nothing_else_along(scene: Scene) -> None:
    scene.start(groups={"g": 3})
    results = [scene.do("echo", value=number) for number in range(20)]
    killer = scene.do("die_once", key="k")
    results += [scene.do("echo", value=number) for number in range(20, 40)]
    assert killer.get(PATIENCE) == 0
    assert [result.get(PATIENCE) for result in results] == list(range(40))


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [(signal.SIGTERM, "SystemExit", 0), (signal.SIGINT, "KeyboardInterrupt", -signal.SIGINT)],
)
def test_start_ends_by_a_signal_when_what_runs_is_done(
    scene: Scene, number: signal.Signals, error: str, code: int
) -> None:
    program = scene.start(processes=2)
    result = scene.do("hold", key="a")
    scene.began()
    program.signal(number)
    until(lambda: program.output().count("is stopping\n") == 2, "both are stopping")
    waiting = scene.do("echo", value=1)
    scene.go("a")
    assert program.wait() == code
    assert f"left by {error}" in program.output()
    assert result.get(0) > 0
    with pytest.raises(ResultGetTimedOut):
        waiting.get(0)
    assert scene.kit.yard.workers() == []


def test_a_paused_group_is_resumed_and_others_go_on(scene: Scene) -> None:
    scene.start(processes=2, groups={"g": 1, "h": 1})
    scene.kit.send_pause_event({"g"})
    until(lambda: all(one.paused == ["g"] for one in scene.kit.yard.workers()), "g is paused")
    waiting = scene.do("echo", value=1)
    assert scene.do("echo", group="h", value=2).get(PATIENCE) == 2
    with pytest.raises(ResultGetTimedOut):
        waiting.get(0)
    scene.kit.send_resume_event({"g"})
    assert waiting.get(PATIENCE) == 1


def test_all_groups_are_paused_of_those_that_work_now(scene: Scene) -> None:
    scene.start(groups={"g": 1, "h": 1})
    scene.kit.send_pause_event()
    until(lambda: scene.kit.yard.workers()[0].state == "paused", "it is paused")
    waiting = scene.do("echo", value=1)
    with pytest.raises(ResultGetTimedOut):
        waiting.get(0.3)
    scene.start()
    assert waiting.get(PATIENCE) == 1


def test_a_group_is_shut_down_for_good_and_the_last_one_ends_all(scene: Scene) -> None:
    program = scene.start(processes=2, groups={"g": 1, "h": 1})
    scene.kit.send_shutdown_event({"g"})
    until(lambda: all(one.paused == ["g"] for one in scene.kit.yard.workers()), "g is left")
    scene.kit.send_resume_event()
    waiting = scene.do("echo", value=1)
    assert scene.do("echo", group="h", value=2).get(PATIENCE) == 2
    with pytest.raises(ResultGetTimedOut):
        waiting.get(0)
    scene.kit.send_shutdown_event({"h"})
    assert program.wait() == 0
    assert "left\n" in program.output()


def test_events_concern_kits_only_and_let_what_runs_end(scene: Scene) -> None:
    native = scene.run(["-m", "taskyard", "start", "--broker", scene.url, "-t", "g", "print"])
    until(lambda: len(scene.kit.yard.workers()) == 1, "the native worker is there")
    program = scene.start(processes=2)
    result = scene.do("hold", key="a")
    pid = scene.began()["pid"]
    scene.kit.send_pause_event({"g"})
    scene.kit.send_shutdown_event()
    program.said("was told: shutdown")
    scene.go("a")
    assert program.wait() == 0
    assert result.get(PATIENCE) == pid
    assert "was told" not in native.output()
    (left,) = scene.kit.yard.workers()
    assert left.paused == []


def test_a_process_is_replaced_when_should_restart_says_so(scene: Scene) -> None:
    scene.start()
    result = scene.do("hold", key="a")
    first = scene.began()["pid"]
    scene.client.set(go_key(f"replace {first}"), "now")
    until(lambda: scene.kit.yard.workers()[0].state == "stopping", "it is stopped")
    scene.go("a")
    assert result.get(PATIENCE) == first
    second = scene.do("hold", key="b")
    assert scene.began()["pid"] != first
    scene.go("b")
    assert second.get(PATIENCE) != first


def test_started_processes_end_with_their_program_however_it_ends(scene: Scene) -> None:
    program = scene.start(how="daemon", processes=2, wait=True)
    result = scene.do("hold", key="a")
    pid = scene.began()["pid"]
    program.signal(signal.SIGKILL)
    program.wait()
    until(lambda: len(scene.kit.yard.workers()) == 1, "the idle one has ended")
    scene.go("a")
    assert result.get(PATIENCE) == pid
    until(lambda: not scene.kit.yard.workers(), "the busy one has ended")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_started_processes_end_by_events_with_code_0(scene: Scene, method: str) -> None:
    schedulers = {"s": {"a": {"data": {"do": "note"}}}}
    program = scene.start(how="not daemon", processes=2, method=method, schedulers=schedulers)
    assert scene.do("echo", value=1).get(PATIENCE) == 1
    scene.kit.send_shutdown_event()
    assert program.wait() == 0
    assert "codes [0, 0]" in program.output()


def test_one_of_the_started_processes_is_killed(scene: Scene) -> None:
    scene.start(how="daemon", processes=1, wait=True)
    result = scene.do("hold", key="a")
    first = scene.began()
    os.kill(first["pid"], signal.SIGKILL)
    scene.start(processes=1)
    reaped = scene.kit.yard.driver.run(scene.kit.yard.broker.reap([owner_of(scene, first["pid"])]))
    assert reaped is not None
    second = scene.began()
    assert second["id"] == first["id"]
    scene.go("a")
    assert result.get(PATIENCE) == second["pid"]


def owner_of(scene: Scene, pid: int) -> str:
    """The worker of a process: instead of waiting for its lease, what it held is given back."""
    return next(one.id for one in scene.kit.yard.workers() if one.pid == pid)


def test_tasks_that_wait_before_there_is_a_worker(scene: Scene) -> None:
    results = scene.kit.initiate_tasks(
        *[{"group": "g", "name": "t", "data": {"do": "echo", "value": n}} for n in range(250)]
    )
    scene.start(processes=2, groups={"g": 2, "without threads": 0})
    assert [result.get(PATIENCE) for result in results] == list(range(250))


def test_a_server_that_goes_and_comes_back(tmp_path: Path) -> None:
    with RedisServer(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        scene = Scene(server.url, tmp_path)
        try:
            scene.start()
            before = scene.do("fail", key="a")
            with pytest.raises(Failed):
                before.get(PATIENCE)
            server.kill()
            kit = Kit(f"{server.url}?retry=0.1", Handler(server.url))
            with pytest.raises(BrokerUnavailable):
                kit.initiate_task("g", "t", {})
            with pytest.raises(BrokerUnavailable):
                kit.get_result(before.task_id).get(1)
            kit.yard.close()
            server.restart()
            assert scene.do("echo", value=1).get(PATIENCE) == 1
            with pytest.raises(Failed, match="attempt 0"):
                scene.kit.get_result(before.task_id).get(PATIENCE)
        finally:
            scene.close()
