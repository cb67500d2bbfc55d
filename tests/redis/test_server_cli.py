"""The options of the command line that name a Redis, or start one."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.servers.binaries import Binary
from tests.servers.server import RedisServer, free_port
from tests.variants import some_in_short

from taskyard.brokers.redis.server import OwnServer, running_server
from taskyard.brokers.started import start_here, started_here
from taskyard.cli.group import taskyard
from taskyard.cli.options import broker_option

SECRET = "s3cret/@:"
QUOTED = "s3cret%2F%40%3A"


@click.command()
@broker_option
def show(url: str) -> None:
    click.echo(url)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("TASKYARD_BROKER", "TASKYARD_REDIS_PASS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ("-H example.org", {}, "redis://example.org:6379/0"),
        ("--redis-host ::1 --redis-port 7000", {}, "redis://[::1]:7000/0"),
        ("-P 7000", {}, "redis://127.0.0.1:7000/0"),
        (f"-p {SECRET}", {}, f"redis://:{QUOTED}@127.0.0.1:6379/0"),
        ("-H h", {"TASKYARD_REDIS_PASS": SECRET}, f"redis://:{QUOTED}@h:6379/0"),
        ("-H h -p a", {"TASKYARD_REDIS_PASS": "b"}, "redis://:a@h:6379/0"),
        ("-H h", {"TASKYARD_BROKER": "memory://"}, "redis://h:6379/0"),
        ("", {"TASKYARD_BROKER": "redis://h", "TASKYARD_REDIS_PASS": "b"}, "redis://h"),
        ("--broker redis://h", {"TASKYARD_REDIS_PASS": "b"}, "redis://h"),
    ],
)
def test_options_become_a_url(
    here: Path, given: str, environment: dict[str, str], expected: str
) -> None:
    answer = CliRunner().invoke(show, given.split(), env=environment)
    assert answer.output == f"{expected}\n"


def test_the_default_stays_the_file(here: Path) -> None:
    (here / "taskyard.redis").write_text(f"{here / 'gone'}\n")  # as a killed program leaves it
    answer = CliRunner().invoke(show, [], env={"TASKYARD_REDIS_PASS": "b"})
    assert answer.output == f"sqlite:///{here}/taskyard.db\n"


def test_the_end_of_a_server_leaves_another_one_to_be_found(
    here: Path, redis_binary: Binary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(redis_binary.path.parent), prepend=os.pathsep)
    ports = [free_port(), free_port()]
    first, second = (start_here("127.0.0.1", port, f"data-{port}", what="it") for port in ports)
    with ExitStack() as both:
        with first:
            both.enter_context(second)
        assert started_here() == f"127.0.0.1:{ports[1]}"
    assert started_here() is None


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("add -t q 1 -H h --broker memory://", "--redis-host and --broker both say"),
        ("queues -p secret --broker memory://", "--redis-pass and --broker both say"),
        ("add -t q 1 -P 70000", "70000 is not in the range"),
        ("start -t q print -D data", "--redis-datadir needs --redis-start"),
        ("start -t q print -S --broker memory://", "leave out --broker"),
        ("start -t q print -S -H 0.0.0.0", "would obey everybody"),
    ],
)
def test_contradictions(here: Path, command: str, text: str) -> None:
    answer = CliRunner().invoke(taskyard, command.split())
    assert answer.exit_code in (1, 2)
    assert text in " ".join(answer.output.split())
    assert "secret" not in answer.output


@pytest.mark.parametrize("command", ["add", "start", "queues", "release", "dead list"])
def test_every_command_takes_them_and_none_tells_the_password(here: Path, command: str) -> None:
    answer = CliRunner().invoke(
        taskyard, [*command.split(), "--help"], env={"TASKYARD_REDIS_PASS": SECRET}
    )
    assert answer.exit_code == 0
    assert all(f"--redis-{name}" in answer.output for name in ("host", "port", "pass"))
    assert SECRET not in answer.output


# The real thing


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taskyard", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@contextmanager
def started(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "taskyard", "start", *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """Read until a line holds a text; returns what was read."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} never came:\n{read}")


@pytest.mark.parametrize(
    ("password", "datadir"),
    some_in_short(
        itertools.product(["", SECRET], ["", "some/data"]), [("", ""), (SECRET, "some/data")]
    ),
)
def test_start_with_a_server_that_add_finds(
    here: Path, redis_binary: Binary, datadir: str, password: str
) -> None:
    path = {"PATH": f"{redis_binary.path.parent}:{os.environ['PATH']}"}
    environment = path | ({"TASKYARD_REDIS_PASS": password} if password else {})
    port = free_port()
    options = ["-S", "-P", str(port), *(["-D", datadir] if datadir else [])]
    folder = here / (datadir or "taskyard-redis")
    with started("-t", "q1", "print", "-b", "1", *options, **environment) as process:
        read = wait_for(process, "serving q1")
        assert running_server(folder) == f"127.0.0.1:{port}"
        added = run("add", "-t", "q1", '{"number": 7}', **environment)
        assert added.returncode == 0, added.stderr
        read += wait_for(process, "[{'number': 7}]")
        queues = run("queues", "--json", **environment)
        assert f"127.0.0.1:{port}" in json.loads(queues.stdout)["broker"]
        process.send_signal(signal.SIGTERM)
        read += process.communicate(timeout=50)[0]
        assert process.returncode == 0
    assert running_server(folder) is None
    assert not (here / "taskyard.redis").exists()
    assert not (here / "taskyard.db").exists()
    if password:
        assert SECRET not in read + added.stdout + added.stderr + queues.stdout
        assert QUOTED not in read + added.stdout + added.stderr + queues.stdout


def test_start_where_a_redis_runs_already(here: Path, redis_server: RedisServer) -> None:
    path = f"{redis_server.binary.path.parent}:{os.environ['PATH']}"
    answer = run("start", "-t", "q", "print", "-S", "-P", str(redis_server.port), PATH=path)
    assert answer.returncode == 1
    assert f"127.0.0.1:{redis_server.port}: a Redis" in answer.stderr
    assert "runs there already" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_messages_wait_for_the_next_start(here: Path, redis_binary: Binary) -> None:
    port = free_port()
    environment = {"PATH": f"{redis_binary.path.parent}:{os.environ['PATH']}"}
    with OwnServer(port=port, datadir=here / "taskyard-redis", program=redis_binary.path):
        added = run("add", "-t", "q1", '"kept"', "-P", str(port), **environment)
        assert added.returncode == 0, added.stderr
    options = ("-t", "q1", "print", "-b", "1", "-S", "-P", str(port))
    with started(*options, **environment) as process:
        wait_for(process, "['kept']")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=50)
        assert process.returncode == 0


def test_without_redis_py_it_says_what_to_install(here: Path) -> None:
    code = (
        "import sys; sys.modules['redis'] = None; sys.argv = "
        "['taskyard', 'start', '-t', 'q', 'print', '-S']; import taskyard.cli; taskyard.cli.main()"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert answer.returncode == 1
    assert "pip install 'taskyard[redis]'" in answer.stderr
