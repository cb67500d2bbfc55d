"""Real programs that are told to stop while their server does not answer.

They would try for ten minutes, so who waits for that does not end in time.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.acceptance.conftest import signals_of_a_terminal
from tests.servers.proxy import Proxy
from tests.servers.server import RedisServer
from tests.variants import some_in_short

__all__ = ["signals_of_a_terminal"]

PATIENCE = 40
RETRY = "?retry=600"
HANDLERS = """
import os, time

def show(items):
    say("show", items)

def held(items):
    say("begin", items)
    while not os.path.exists("go"):
        time.sleep(0.005)
    say("end", items)

def say(what, items):
    # In one write, as a print is several, which what others write may come between.
    os.write(1, f"{what} {items}\\n".encode())
"""


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy((redis_server.host, redis_server.port)) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Program:
    """A running command."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output = ""

    def wait_for(self, text: str) -> None:
        assert self.process.stdout is not None
        while text not in self.output:
            line = self.process.stdout.readline()
            assert line, f"{text!r} never came:\n{self.output}"
            self.output += line

    def end(self, number: signal.Signals) -> int:
        """Send a signal, and wait for its end; gives the exit code."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=PATIENCE)
        self.output += rest
        assert "Traceback" not in self.output
        return self.process.returncode


@contextmanager
def begun(*arguments: str) -> Iterator[Program]:
    command: Sequence[str] = [sys.executable, "-m", "taskyard", *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            yield Program(process)
        finally:
            process.kill()


def start(proxy: Proxy, handler: str, processes: str, grace: str = "30") -> Sequence[str]:
    url = f"redis://{proxy.address}{RETRY}"
    more = ("-n", processes, "-b", "1", "--grace", grace, "--broker", url)
    return ("start", "-t", "q1", f"handlers:{handler}", *more)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_start_without_a_server_says_so_and_can_be_ended(
    proxy: Proxy, processes: str, number: signal.Signals
) -> None:
    proxy.refuse()
    with begun(*start(proxy, "show", processes)) as program:
        program.wait_for(f"Redis at {proxy.address}: Connection refused; trying again for 600 s")
        assert program.end(number) == 0
        assert program.output.count("Connection refused") == 1


def test_a_start_goes_on_when_the_server_is_there(proxy: Proxy) -> None:
    proxy.refuse()
    with begun(*start(proxy, "show", "0")) as program:
        program.wait_for("Connection refused")
        proxy.resume()
        program.wait_for("answers again")
        program.wait_for("started: 1 slots")
        assert program.end(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("processes", "silent"),
    some_in_short(itertools.product("01", [False, True]), [("0", False), ("1", True)]),
)
def test_an_idle_worker_whose_server_went_away_can_be_ended(
    proxy: Proxy, processes: str, silent: bool
) -> None:
    with begun(*start(proxy, "show", processes)) as program:
        program.wait_for("started: 1 slots")
        assert add(proxy) == 0
        program.wait_for("show [1]")
        if silent:
            proxy.swallow()
        else:
            proxy.refuse()
            program.wait_for("Connection refused")
        assert program.end(signal.SIGINT) == 0


@pytest.mark.parametrize("processes", some_in_short("01", "1"))
def test_results_that_cannot_be_stored_keep_nobody_beyond_the_grace(
    proxy: Proxy, processes: str, folder: Path
) -> None:
    with begun(*start(proxy, "held", processes, grace="1")) as program:
        program.wait_for("started: 1 slots")
        assert add(proxy) == 0
        program.wait_for("begin [1]")
        proxy.refuse()
        (folder / "go").touch()
        program.wait_for("end [1]")
        assert program.end(signal.SIGINT) == 0
        assert "what became of 1 claims is not stored" in program.output


def test_results_are_stored_if_the_server_is_back_within_the_grace(
    proxy: Proxy, redis_server: RedisServer, folder: Path
) -> None:
    with begun(*start(proxy, "held", "0")) as program:
        program.wait_for("started: 1 slots")
        assert add(proxy) == 0
        program.wait_for("begin [1]")
        proxy.refuse()
        (folder / "go").touch()
        program.wait_for("end [1]")
        program.process.send_signal(signal.SIGTERM)
        program.wait_for("is stopping")
        proxy.resume()
        assert program.process.wait(PATIENCE) == 0
    assert redis_server.client().hgetall("taskyard:{0}:g:1")[b"running"] == b"0"


@pytest.mark.parametrize(
    "command", [("queues",), ("add", "-t", "q1", "1"), ("dead", "list"), ("split", "q1")]
)
def test_ctrl_c_ends_a_command_at_once(proxy: Proxy, command: Sequence[str]) -> None:
    proxy.refuse()
    with begun(*command, "--broker", f"redis://{proxy.address}{RETRY}") as program:
        program.wait_for("Connection refused; trying again for 600 s")
        assert program.end(signal.SIGINT) == 130


def add(proxy: Proxy) -> int:
    command = [sys.executable, "-m", "taskyard", "add", "-t", "q1", "1"]
    url = f"redis://{proxy.address}"
    return subprocess.run([*command, "--broker", url], check=False, timeout=PATIENCE).returncode
