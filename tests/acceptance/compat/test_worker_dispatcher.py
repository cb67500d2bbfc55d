"""worker-dispatcher's document as a user tries it: its examples, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.programs import PATIENCE, Program

from taskyard.compat import worker_dispatcher
from taskyard.compat.worker_dispatcher import get_logs, get_result_info, get_results, start
from taskyard.compat.worker_dispatcher.config import merged, options
from taskyard.errors import PolicyError, TaskyardError

DEMONSTRATION = """
from taskyard.compat import worker_dispatcher
import requests

def each_task(id: int, config, task, metadata):
    response = requests.get(config['my_endpoint'] + task)
    return response

responses = worker_dispatcher.start({
    'task': {
        'list': ['ORD_AH001', 'ORD_KL502', '...' , 'ORD_GR393'],
        'function': each_task,
        'config': {
            'my_endpoint': 'ENDPOINT/order-handler/'
        },
    },
    'worker': {
        'number': 20,
    }
})
"""

CORES = """
from taskyard.compat import worker_dispatcher

def each_task(id: int, config, task, metadata):
    result = sum(id * i for i in range(10**NINE))
    return result

if __name__ == '__main__':
    results = worker_dispatcher.start({
        'task': {
            'list': 10,
            'function': each_task,
        },
        'worker': {
            'use_processing': True
        }
    })
"""

ALL_OPTIONS = """
from taskyard.compat import worker_dispatcher

def task_function_sample(id, config, task, metadata):
    return task

results = worker_dispatcher.start({
    'debug': False,
    'task': {
        'list': [],                         # Support list and integer. Integer represent the number of tasks to be generated.
        'function': task_function_sample,   # The main function to execute per task
        'config': {},
        'callback': {
            'on_done': False,               # Called with each task's result after each task completes; the return value will overwrite and define the task result
            'on_all_done': False,           # Called with each task's result after all tasks complete; the return value will overwrite and define the task result
        }
    },
    'worker': {
        'number': 8,
        'frequency_mode': {             # Changing from assigning tasks to a fixed number of workers once, to assigning tasks and workers frequently.
            'enabled': False,
            'interval': 1,              # The second(s) of interval
            'accumulated_workers': 0,   # Accumulate the number of workers for each interval for next dispatch.
            'max_workers': None,        # limit the maximum number of workers to prevent system exhaustion.
        },
        'use_processing': False,        # To break GIL, workers will be based on processing pool.
        'parallel_processing': {        # To break GIL and require a number of workers greater than the number of CPU cores.
            'enabled': False,           # `worker.use_processing` setting will be ignored when enabled. The actual number of workers will be adjusted to a multiple of the CPU core count.
            'use_queue': False,         # Enable a task queue to specify the number of workers without adjustment, though the maximum may be limited by your device.
        },
    },
    'runtime': None,                    # Dispatcher max runtime in seconds
    'verbose': True
})
print(results)
"""  # noqa: E501 - as it is printed in the document

STRESS = """
from taskyard.compat import worker_dispatcher
import requests

def each_task(id, config, task, metadata):
    response = None
    try:
        response = requests.get(config['my_endpoint'], timeout=(5, 10))
    except requests.exceptions.RequestException as e:
        print("An error occurred:", e)
    return response

responses = worker_dispatcher.start({
    'task': {
        'list': 600,
        'function': each_task,
        'config': {
            'my_endpoint': 'ENDPOINT/api'
        },
    },
    # Light Load with 10 RPS
    'worker': {
        'number': 10,
        'frequency_mode': {
            'enabled': True,
            'interval': 1,
        },
    },
})

print(worker_dispatcher.get_logs())
print(worker_dispatcher.get_tps())
"""

REPORT = """
import json
print("LOGS", json.dumps([{**log, "result": str(log["result"])} for log in worker_dispatcher.get_logs()]))
print("TPS", json.dumps(worker_dispatcher.get_tps()))
print("INFO", json.dumps(worker_dispatcher.get_result_info()))
"""  # noqa: E501


class Orders(BaseHTTPRequestHandler):
    """A server that knows all orders but one."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.send_response(404 if self.path.endswith("KL502") else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def orders() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (Orders,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def endpoint(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def script(folder: Path, text: str) -> list[str]:
    path = folder / "main.py"
    path.write_text(textwrap.dedent(text))
    return [sys.executable, str(path)]


def printed(folder: Path, text: str) -> str:
    done = subprocess.run(
        script(folder, text),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@contextmanager
def running(folder: Path, text: str) -> Iterator[Program]:
    program = Program(script(folder, text), folder)
    try:
        yield program
    finally:
        program.destroy()


def told(output: str, word: str) -> Any:
    [line] = [line for line in output.splitlines() if line.startswith(f"{word} ")]
    return json.loads(line.removeprefix(f"{word} "))


# The document's examples


def test_the_demonstration(tmp_path: Path, orders: ThreadingHTTPServer) -> None:
    text = DEMONSTRATION.replace("ENDPOINT", endpoint(orders)) + REPORT
    output = printed(tmp_path, text + "print(responses)")
    assert "[<Response [200]>, <Response [404]>, <Response [200]>, <Response [200]>]" in output
    tps = told(output, "TPS")
    assert tps["count"] == {"success": 3, "total": 4, "start": 4, "end": 4, "invalidity": 0}
    assert sorted(orders.RequestHandlerClass.seen)[1] == "/order-handler/ORD_AH001"  # type: ignore[attr-defined]


def test_what_is_printed(tmp_path: Path) -> None:
    output = printed(tmp_path, CORES.replace("NINE", "3"))
    instant = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?[+-]\d\d:\d\d"
    wanted = rf"""
Worker Dispatcher Configutation:
- Local CPU core: \d+
- Tasks Count: 10
- Runtime: Unlimited
- Dispatch Mode: Fixed Workers \(Default\)
- Workers Info:
  └ Worker Type: Processing
  └ Number of Workers : (\d+)
  └ Max Worker: \d+

--- Start to dispatch workers at {instant} ---


--- End of worker dispatch at {instant}---

Spend Time: \d+\.\d{{6}} sec
Completed Tasks Count: 10
Uncompleted Tasks Count: 0
Undispatched Tasks Count: 0
"""
    assert re.fullmatch(wanted, output), output


def test_all_cores_compute(tmp_path: Path) -> None:
    output = printed(tmp_path, CORES.replace("NINE", "3") + "print(results)")
    assert str([id_ * sum(range(1000)) for id_ in range(1, 11)]) in output


def test_all_options(tmp_path: Path) -> None:
    output = printed(tmp_path, ALL_OPTIONS)
    assert output.endswith("Undispatched Tasks Count: 0\n[]\n")


def test_the_stress_test(tmp_path: Path, orders: ThreadingHTTPServer) -> None:
    text = STRESS.replace("ENDPOINT", endpoint(orders)).replace("600", "25") + REPORT
    output = printed(tmp_path, text.replace("'interval': 1", "'interval': 0.25"))
    logs = told(output, "LOGS")
    assert [log["task_id"] for log in logs] == [*range(1, 26)]
    assert {log["result"] for log in logs} == {"<Response [200]>"}
    begun = told(output, "INFO")["started_at"]
    for log in logs:  # never before their interval
        assert log["started_at"] - begun >= (log["task_id"] - 1) // 10 * 0.25 - 0.001
    assert told(output, "TPS")["count"]["success"] == 25


# Modes


def where(id: int, config: Any, task: Any, metadata: dict[str, Any]) -> Any:
    metadata["thread"] = threading.get_ident()
    return os.getpid()


PARALLEL: dict[str, Any] = {"enabled": True}


@pytest.mark.parametrize(
    ("worker", "processes"),
    [
        ({"number": 3}, False),
        ({"number": 2, "use_processing": True}, True),
        ({"number": 5, "parallel_processing": PARALLEL}, True),
        ({"number": 5, "parallel_processing": {**PARALLEL, "use_queue": True}}, True),
        ({"number": 4, "frequency_mode": {"enabled": True, "interval": 0.05}}, False),
        (
            {
                "number": 4,
                "parallel_processing": PARALLEL,
                "frequency_mode": {"enabled": True, "interval": 0.05, "accumulated_workers": 2},
            },
            True,
        ),
    ],
    ids=["fixed", "processes", "parallel", "queue", "frequency", "parallel frequency"],
)
def test_each_task_is_done_once(worker: dict[str, Any], processes: bool) -> None:
    task = {"list": 20, "function": where}
    results = start({"task": task, "worker": worker, "verbose": False})
    assert results is get_results()
    assert (os.getpid() not in set(results or [])) == processes
    assert [log["task_id"] for log in get_logs()] == [*range(1, 21)]
    assert [log["result"] for log in get_logs()] == results
    info = get_result_info()
    assert info["duration"] == info["ended_at"] - info["started_at"]
    assert worker_dispatcher.get_duration() == info["duration"]
    for log in get_logs():
        assert info["started_at"] <= log["started_at"] <= log["ended_at"] <= info["ended_at"]
        assert log["duration"] == log["ended_at"] - log["started_at"]
        assert log["metadata"].keys() == {"thread"}


def test_what_a_task_is_given() -> None:
    given: list[object] = []

    def each_task(id: int, config: Any, task: Any, metadata: dict[str, Any]) -> None:
        given.append((id, config, task, metadata))

    config = {"any": "thing"}
    start({"task": {"list": ["a"], "function": each_task, "config": config}, "verbose": False})
    start({"task": {"list": 1, "function": each_task}, "verbose": False})
    assert given == [(1, config, "a", {}), (1, {}, {}, {})]


def test_callbacks_replace_results() -> None:
    def on_done(id: int, config: Any, result: Any, log: dict[str, Any]) -> Any:
        assert log["result"] == result
        assert log["duration"] == log["ended_at"] - log["started_at"] >= 0
        log["metadata"]["done"] = True
        return (id, config, result)

    def on_all_done(id: int, config: Any, result: Any, log: dict[str, Any]) -> Any:
        assert log["result"] == result
        return [id, config, result, log["metadata"]]

    task = {
        "list": ["a", "b"],
        "config": 7,
        "function": lambda id, config, task, metadata: task * 2,
        "callback": {"on_done": on_done, "on_all_done": on_all_done},
    }
    results = start({"task": task, "verbose": False})
    assert results == [[1, 7, (1, 7, "aa"), {"done": True}], [2, 7, (2, 7, "bb"), {"done": True}]]
    assert [log["result"] for log in get_logs()] == results


def fail_odd(id: int, config: Any, task: Any, metadata: dict[str, Any]) -> Any:
    if id == 3:
        metadata["error"] = "mine"
    if id % 2:
        raise ValueError(f"no {id}")
    return id


@pytest.mark.parametrize("on_done", [False, lambda id, config, result, log: result])
def test_a_task_that_raises_ends_nothing(on_done: Any) -> None:
    task = {"list": 4, "function": fail_odd, "callback": {"on_done": on_done}}
    assert start({"task": task, "verbose": False}) == [False, 2, False, 4]
    errors = [log["metadata"].get("error") for log in get_logs()]
    assert errors == ["ValueError: no 1", None, "mine", None]


def test_an_on_done_that_raises_ends_nothing() -> None:
    def on_done(id: int, config: Any, result: Any, log: dict[str, Any]) -> Any:
        raise KeyError(id)

    task = {"list": 2, "function": lambda **_: True, "callback": {"on_done": on_done}}
    assert start({"task": task, "verbose": False}) == [False, False]
    assert [log["metadata"]["error"] for log in get_logs()] == ["KeyError: 1", "KeyError: 2"]


def test_the_default_function_is_a_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert start({"task": {"list": 2}, "verbose": False}) == [{"taskId": 1}, {"taskId": 2}]
    assert "sample" in capsys.readouterr().out


def test_a_task_may_start_another_list() -> None:
    def each_task(id: int, config: Any, task: Any, metadata: dict[str, Any]) -> Any:
        inner = {"list": id, "function": lambda **_: True, "config": "inner"}
        return start({"task": inner, "verbose": False})

    outer = {"list": 2, "function": each_task, "config": "outer"}
    assert start({"task": outer, "verbose": False}) == [[True], [True, True]]
    assert get_results() == [[True], [True, True]]
    assert worker_dispatcher.get_last_config()["task"]["config"] == "outer"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_on_done_hears_of_a_task_that_ends_its_thread(error: type[BaseException]) -> None:
    def each_task(**_: Any) -> None:
        raise error

    def on_done(id: int, config: Any, result: Any, log: dict[str, Any]) -> Any:
        return ("done", result)

    task = {"list": 1, "function": each_task, "callback": {"on_done": on_done}}
    assert start({"task": task, "verbose": False}) == [("done", False)]
    assert error.__name__ in get_logs()[0]["metadata"]["error"]


def test_frequency_mode_does_not_start_a_process_for_every_task() -> None:
    frequency: dict[str, Any] = {"enabled": True}
    worker = {"use_processing": True, "frequency_mode": frequency}
    assert options(merged({"task": {"list": 3000}, "worker": worker})).workers == 256
    assert options(merged({"task": {"list": 30}, "worker": worker})).workers == 30
    frequency["max_workers"] = 300
    assert options(merged({"task": {"list": 3000}, "worker": worker})).workers == 300


def test_runtime_leaves_what_was_not_begun(capsys: pytest.CaptureFixture[str]) -> None:
    gate = threading.Event()

    def each_task(id: int, **_: Any) -> int:
        if id == 3:  # by then the runtime is over
            threading.Timer(2.5, gate.set).start()
        if id > 1:
            assert gate.wait(PATIENCE)
        return id

    config = {"task": {"list": 9, "function": each_task}, "worker": {"number": 2}, "runtime": 1.5}
    assert start(config) == [1, 2, 3]
    assert "- Runtime: 1.5 sec" in (output := capsys.readouterr().out)
    assert output.endswith(
        "Completed Tasks Count: 3\nUncompleted Tasks Count: 0\nUndispatched Tasks Count: 6\n"
    )


# Faults

SPAWNED = """
import multiprocessing
from taskyard.compat import worker_dispatcher

multiprocessing.set_start_method("METHOD", force=True)

def each_task(id, config, task, metadata):
    return id

results = worker_dispatcher.start({
    'task': {'list': 3, 'function': each_task},
    'worker': {'number': 1, 'use_processing': True},
    'verbose': False,
})
print("got", results, flush=True)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_guard_does_not_begin_anew_in_its_processes(
    tmp_path: Path, method: str
) -> None:
    lines = printed(tmp_path, SPAWNED.replace("METHOD", method)).splitlines()
    assert lines == ["got False", "got [1, 2, 3]"]


DYING = """
import os
from taskyard.compat import worker_dispatcher

def each_task(id, config, task, metadata):
    if id == 2:
        os._exit(3)
    return id

results = worker_dispatcher.start({
    'task': {'list': 4, 'function': each_task},
    'worker': {'number': 1, 'use_processing': True},
})
print(results, worker_dispatcher.get_logs()[1]["metadata"])
"""


def test_a_process_that_dies_costs_one_task(tmp_path: Path) -> None:
    lines = printed(tmp_path, DYING).splitlines()
    assert lines[-4:-1] == [
        "Completed Tasks Count: 3",
        "Uncompleted Tasks Count: 1",
        "Undispatched Tasks Count: 0",
    ]
    assert lines[-1].startswith("[1, False, 3, 4] {'error': ")


HELD = """
import pathlib, time
from taskyard.compat import worker_dispatcher

def each_task(id, config, task, metadata):
    print(f"begin {id}\\n", end="", flush=True)
    while id > 1 and not pathlib.Path("go").exists():
        time.sleep(0.005)
    return id

results = worker_dispatcher.start({
    'task': {'list': 9, 'function': each_task},
    'worker': {'number': 2, 'use_processing': PROCESSES},
})
print(results, worker_dispatcher.get_tps()["count"]["success"])
"""


@pytest.mark.parametrize(
    ("processes", "results", "left"),
    [
        ("False", r"\[1, \d, \d\] 3", "6"),
        # A process goes on with what it was given until it has heard of it.
        ("True", r"\[1(, \d)+\] \d", r"\d"),
    ],
)
def test_ctrl_c_keeps_what_has_ended(
    tmp_path: Path, processes: str, results: str, left: str
) -> None:
    with running(tmp_path, HELD.replace("PROCESSES", processes)) as program:
        program.wait_for("begin", 3)
        os.killpg(program.process.pid, signal.SIGINT)  # as a terminal does
        program.wait_for("no more calls are begun")
        (tmp_path / "go").touch()
        program.wait_for(f"^{results}$")
        program.wait_for(f"Undispatched Tasks Count: {left}$")
        assert program.wait() == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"task": {"list": "abc"}}, "task.list must be a list or a number of tasks, not 'abc'"),
        ({"worker": {"number": 0}}, "worker.number must be a whole number from 1, not 0"),
        ({"worker": {"number": "8"}}, "worker.number must be a whole number from 1, not '8'"),
        ({"worker": 8}, r"config\['worker'\] must be a dictionary with number, frequency_mode"),
        ([], "config must be a dictionary with debug, task, worker, runtime, verbose"),
        ({"task": {"function": "each"}}, "task.function must be a function, not 'each'"),
        ({"task": {"callback": {"on_done": 1}}}, "task.callback.on_done must be a function"),
        ({"worker": {"frequency_mode": {"enabled": True, "interval": -1}}}, "interval"),
        ({"runtime": -1}, "runtime"),
        ({"runtime": "soon"}, "runtime"),
    ],
)
def test_wrong_use_says_what_is_right(
    config: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        start(config)
    assert isinstance(caught.value, TaskyardError)
    assert capsys.readouterr().out == "", "nothing is announced that does not begin"


# Reports


def log(begun: float, ended: float, result: object = True) -> dict[str, Any]:
    return {"task_id": 1, "started_at": begun, "ended_at": ended, "result": result}


def test_tps() -> None:
    logs = [log(100, 101), log(100.5, 102), log(101, 103, False), log(109, 110, "yes")]
    assert worker_dispatcher.get_tps([*logs, {"started_at": 1}]) == {
        "tps": 0.3,
        "started_at": 100,
        "ended_at": 110,
        "duration": 10,
        "metrics": {
            "execution_time": {"avg": 5.5 / 4, "max": 2, "min": 1},
            "success_execution_time": {"avg": 3.5 / 3, "max": 1.5, "min": 1},
        },
        "count": {"success": 3, "total": 4, "start": 4, "end": 4, "invalidity": 1},
        "peak": {
            "tps": 1.0,
            "started_at": 100,
            "ended_at": 101,
            "duration": 1,
            "metrics": {
                "execution_time": {"avg": 1, "max": 1, "min": 1},
                "success_execution_time": {"avg": 1, "max": 1, "min": 1},
            },
            "count": {"success": 1, "total": 1, "start": 2, "end": 1},
        },
    }


@pytest.mark.parametrize("backwards", [False, True])
def test_intervals(backwards: bool) -> None:
    logs = [log(0, 1), log(1, 2), log(2, 3), log(3, 5), log(5, 6, None)]
    report = worker_dispatcher.get_tps(
        logs, display_intervals=True, interval=4, reverse_interval=backwards
    )
    found = [
        (row["started_at"], row["ended_at"], row["tps"], row["count"]["success"])
        for row in report["intervals"]
    ]
    if backwards:
        assert found == [(2, 6, 0.5, 2), (0, 2, 1.0, 2)]
    else:
        assert found == [(0, 4, 0.75, 3), (4, 6, 0.0, 0)]


def test_a_peak_that_is_none_is_empty() -> None:
    assert worker_dispatcher.get_tps([log(0, 1), log(1, 2)])["peak"] == {}
    nothing = worker_dispatcher.get_tps([log(0, 1, False)])
    assert (nothing["peak"], nothing["tps"], nothing["count"]["success"]) == ({}, 0, 0)


@pytest.mark.parametrize("broken", [None, "soon", float("nan"), float("inf"), [], 1e300])
def test_logs_that_are_none_are_counted(broken: object) -> None:
    logs: list[Any] = [log(0, 1), {**log(1, 2), "started_at": broken}, log(1, 2), "log"]
    report = worker_dispatcher.get_tps(logs)
    assert report
    assert (report["count"]["total"], report["count"]["invalidity"]) == (2, 2)


def test_what_is_no_list_of_logs_has_no_report() -> None:
    assert worker_dispatcher.get_tps({"a": 1}) is False  # type: ignore[arg-type]


def test_logs_that_cannot_be_read_are_counted() -> None:
    wrong = [log(None, 10), log(float("nan"), 10), {"result": True}, 7]  # type: ignore[arg-type]
    count = worker_dispatcher.get_tps([log(0, 1), *wrong])["count"]  # type: ignore[list-item,index]
    assert (count["total"], count["invalidity"]) == (1, 4)


@pytest.mark.parametrize("interval", ["2", -1, float("nan"), 1e-6])
def test_an_interval_has_to_be_a_sensible_time(interval: Any) -> None:
    with pytest.raises(PolicyError, match="interval"):
        worker_dispatcher.get_tps([log(0, 1000)], interval=interval)


def test_the_search_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    logs = [log(0, 1), log(5.25, 5.5), log(5.3, 5.6), log(9, 10)]
    worker_dispatcher.get_tps(logs, verbose=True)
    shown = capsys.readouterr().out
    assert "--- Start calculating the TPS data ---" in shown
    assert "--- Start to compile intervals with an interval of" in shown
    assert "--- Start to find the peak TPS ---" in shown
    assert "  - " not in shown
    worker_dispatcher.get_tps(logs, debug=True, use_processing=True)
    shown = capsys.readouterr().out
    assert "  - Average TPS: 0.4, Total Duration: 10.0s, Success Count: 4" in shown
    assert "    * Peak detected above the current TPS threshold - TPS: 2.0" in shown


def test_results_that_are_responses() -> None:
    class Response:
        def __init__(self, status_code: int) -> None:
            self.status_code = status_code

    succeeds = worker_dispatcher.result_is_success
    assert [succeeds(one) for one in (Response(200), Response(503), 1, 0, None, "", {})] == [
        True,
        False,
        True,
        False,
        False,
        False,
        False,
    ]


def test_nothing_was_run_yet(tmp_path: Path) -> None:
    output = printed(
        tmp_path,
        """
        from taskyard.compat.worker_dispatcher import *
        print(get_results(), get_logs(), get_result_info(), get_duration(), get_last_config())
        print(get_tps())
        """,
    )
    assert output.splitlines()[0] == "[] [] {} None {}"


def test_sigterm_of_the_program_ends_its_processes(tmp_path: Path) -> None:
    with running(tmp_path, HELD.replace("PROCESSES", "True")) as program:
        program.wait_for("begin", 3)
        program.signal(signal.SIGTERM)
        program.wait_for("no more calls are begun")
        (tmp_path / "go").touch()
        program.wait_for(r"\[1, \d, \d(, \d)?\] [34]")  # a process may just begin one
        assert program.wait() == 0
