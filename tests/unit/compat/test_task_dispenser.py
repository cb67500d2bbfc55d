"""What the interface of task-dispenser translates, without a server."""

from __future__ import annotations

import collections
import inspect
import logging
import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from taskyard.brokers.urls import redis_url
from taskyard.cli.options import PLACE
from taskyard.compat import task_dispenser
from taskyard.compat.task_dispenser import Dispenser, DispenserClient
from taskyard.compat.task_dispenser.main import task_dispenser as command
from taskyard.compat.task_dispenser.utils import (
    TaskFailed,
    failed_task,
    import_by_name,
    log_error,
    raise_error,
)
from taskyard.errors import BrokerError, PayloadError, PolicyError, WorkerError

ROOT = Path(__file__).parents[3]
SECRET = "s3cret/@:"
QUOTED = "s3cret%2F%40%3A"


# Functions by name


def test_names_become_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert import_by_name("print") is print
    assert import_by_name("collections:Counter.most_common") is collections.Counter.most_common
    assert import_by_name("math:pi") is math.pi
    assert import_by_name("task_dispenser.utils:failed_task") is failed_task
    assert import_by_name("task_dispenser:Dispenser") is Dispenser
    function = import_by_name("examples/simple_task.py:task_func")
    assert function.__name__ == "task_func"
    assert import_by_name("examples/simple_task.py:task_func") is function
    assert task_dispenser.utils.import_by_name is import_by_name


@pytest.mark.parametrize("name", ["prnt", "nowhere:f", "nowhere.py:f", "math:p", "task_dispens:f"])
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(WorkerError):
        import_by_name(name)


# Errors of functions


def test_what_on_error_gets(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"^Failed$") as caught:
        failed_task([1])
    failed = TaskFailed(caught.value, "q2", failed_task)
    assert str(failed) == "ValueError('Failed')"
    assert (failed.original, failed.queue, failed.func) == (caught.value, "q2", failed_task)
    assert "in failed_task" in failed.get_traceback()
    log_error(failed)
    assert "failed_task of queue q2" in caplog.text
    assert "in failed_task" in caplog.text
    with pytest.raises(TaskFailed):
        raise_error(failed)


# The classes


def test_arguments_and_defaults_are_those_of_the_original() -> None:
    def defaults(of: Any) -> dict[str, Any]:
        parameters = list(inspect.signature(of).parameters.values())
        return {one.name: one.default for one in parameters if one.kind is not one.KEYWORD_ONLY}

    assert defaults(Dispenser) == {
        "tasks": inspect.Parameter.empty,
        "batch_size": 20,
        "flush_interval": 5,
        "host": "127.0.0.1",
        "port": 6379,
        "password": None,
        "redis_start": False,
        "procs_number": 0,
        "on_error": "fail",
    }
    assert defaults(DispenserClient) == {
        "host": "127.0.0.1",
        "port": 6379,
        "password": None,
        "setup": True,
    }


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"tasks": {}}, WorkerError, "as in {'q1': print}"),
        ({"tasks": [print]}, WorkerError, "as in {'q1': print}"),
        ({"tasks": {"q1": "print"}}, WorkerError, "as in {'q1': print}"),
        ({"tasks": {"": print}}, PolicyError, "1 to 200 printable characters"),
        ({"batch_size": 0}, PolicyError, "size must be"),
        ({"flush_interval": -1}, PolicyError, "within must be"),
        ({"procs_number": -1}, WorkerError, "processes must be"),
        ({"on_error": "stop"}, WorkerError, "on_error must be 'fail', 'log' or a function"),
        ({"lease": 0}, WorkerError, "lease must be"),
        ({"port": 70_000}, BrokerError, "is no host and port"),
        ({"host": None}, BrokerError, "a host is .* not of type NoneType"),
        ({"host": "redis://:s3cret@h"}, BrokerError, "a host is a name or an address"),
        ({"host": "h?prefix=p"}, BrokerError, "a host is a name or an address"),
        ({"password": 5}, BrokerError, "a password is a text"),
    ],
)
def test_wrong_arguments(given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Dispenser(**{"tasks": {"q1": print}, **given})


def test_a_server_is_started_by_the_with_block() -> None:
    with pytest.raises(WorkerError, match=r"call run\(\) inside"):
        Dispenser({"q1": print}, redis_start=True).run()


def test_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for secret in (SECRET, None):
        shown = repr(Dispenser({"q1": print}, password=secret))
        assert shown.startswith("<Dispenser of q1 at redis://")
        shown += repr(DispenserClient(password=secret))
        assert SECRET not in shown
        assert QUOTED not in shown
        monkeypatch.setenv("TASKYARD_REDIS_PASS", SECRET)


def test_a_url_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert redis_url() == "redis://127.0.0.1:6379/0"
    assert redis_url("::1", 7000, "a/b") == "redis://:a%2Fb@[::1]:7000/0"
    monkeypatch.setenv("TASKYARD_REDIS_PASS", SECRET)
    assert redis_url("h") == f"redis://:{QUOTED}@h:6379/0"
    assert redis_url("h", password="") == "redis://h:6379/0"


def test_a_client_takes_one_value_that_json_has() -> None:
    client = DispenserClient(setup=False)
    client.setup()
    with pytest.raises(TypeError, match="takes one value"):
        client.add("q1")
    with pytest.raises(TypeError, match="takes one value"):
        client.add("q1", 1, task_args=2)
    with pytest.raises(PayloadError, match="must be one that JSON has"):
        client.add("q1", object())
    with pytest.raises(PolicyError):
        client.add("", 1)


# The commands


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("start -t q1 print -t q1 print", "names the queue q1 twice"),
        ("start -t q1 print -b 0", "size must be"),
        ("start -t q1 print -n -1", "processes must be"),
        ("start -t q1 print -e stop", "'stop' is not one of 'log', 'fail'"),
        ("start -t q1 print -F '%(nothing'", "neither text nor json"),
        ("start -t q1 print -D data", "needs --redis-start"),
        ("start -t q1 print -S -H 0.0.0.0", "would obey everybody"),
        ("start", "Missing option '-t'"),
        ("add -t q1 nojson", "no JSON"),
        ("add", "give messages with -t"),
        ("add -t q1 1 --broker nonsense", "is no broker URL"),
        ("add -t q1 1 -n 0", "0 is not in the range"),
        ("add -t q1 1 -P 70000", "70000 is not in the range"),
        ("add -t q1 1 -p s3cret --broker redis://h", "both say where messages wait"),
    ],
)
def test_wrong_options(line: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    answer = CliRunner().invoke(command, shlex.split(line))
    assert answer.exit_code in (1, 2)
    assert said in " ".join(answer.output.split())
    assert "s3cret" not in answer.output


@pytest.mark.parametrize("name", ["start", "add"])
def test_short_forms_and_defaults(name: str) -> None:
    found = {option: one for one in command.commands[name].params for option in one.opts}
    common = {"-H", "-P", "-p", "-l", "-f", "-F", "-t", "-n"}
    own = {"start": {"-b", "-i", "-e", "-S", "-D"}, "add": set()}[name]
    assert common | own <= found.keys()
    assert found["--log-level"].default == "info"
    defaults = {"--batch-size": 20, "--flush-interval": 5, "--procs-number": 1, "--num": 1}
    defaults["--on-error"] = "fail"  # type: ignore[assignment]
    assert all(found[key].default == value for key, value in defaults.items() if key in found)


def test_the_default_is_the_redis_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKYARD_REDIS_PASS", SECRET)
    monkeypatch.delenv("TASKYARD_BROKER", raising=False)
    context = command.commands["add"].make_context("add", [])
    assert context.params["url"] == f"redis://:{QUOTED}@127.0.0.1:6379/0"
    assert context.meta[PLACE][:2] == ("127.0.0.1", 6379)


# What it costs


def test_it_is_loaded_when_it_is_imported_and_redis_when_it_is_used() -> None:
    code = (
        "import sys; sys.modules['redis'] = None; import taskyard\n"
        "assert 'taskyard.compat' not in sys.modules\n"
        "from taskyard.compat.task_dispenser import Dispenser, DispenserClient\n"
        "assert 'click' not in sys.modules\n"
        "for made in (lambda: Dispenser({'q1': print}), DispenserClient):\n"
        "    try: made()\n"
        "    except taskyard.errors.MissingExtra as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout.count("pip install 'taskyard[redis]'") == 2
