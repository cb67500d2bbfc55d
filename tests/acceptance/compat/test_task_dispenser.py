"""task-dispenser's document as a user tries it: real processes, a real Redis, real signals."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.acceptance.programs import PATIENCE, Program
from tests.servers.binaries import Binary
from tests.servers.fixtures import required
from tests.servers.server import RedisServer, free_port, wait_until

from taskyard import Yard
from taskyard.brokers.redis.server import OwnServer
from taskyard.compat.task_dispenser import DispenserClient
from taskyard.errors import BrokerInaccessible, QueueFull
from taskyard.message import read_envelope
from taskyard.plain import serve_plain

ROOT = Path(__file__).parents[3]
SECRET = "s3cret/@:"
QUOTED = "s3cret%2F%40%3A"

HANDLERS = """
import os, pathlib, time

def wait_for(name):
    while not pathlib.Path(name).exists():
        time.sleep(0.005)

def fail(items):
    raise ValueError(f"Failed {items}")

def held(items):
    print(f"begin {items} in {os.getpid()}", flush=True)
    wait_for("go")
    print(f"end {items} in {os.getpid()}", flush=True)

def slow(items):
    print(f"begin {items}", flush=True)
    time.sleep(4)
    print(f"end {items}", flush=True)

def together(items):
    # Ends only if two programs are here at a time.
    pathlib.Path(f"here-{os.getpid()}").touch()
    while len(list(pathlib.Path().glob("here-*"))) < 2:
        time.sleep(0.005)
    print(f"met {items} in {os.getpid()}", flush=True)

def starred(*batch: str) -> int:
    print(f"starred {batch}", flush=True)
    return len(batch)
"""

SERVER = """
from taskyard.compat.task_dispenser import Dispenser
from taskyard.compat import task_dispenser

dispenser = Dispenser(
    tasks={
        'q1': print,
        'q2': task_dispenser.utils.failed_task,
        'q3': task_dispenser.utils.import_by_name('examples/simple_task.py:task_func'),
    },
    batch_size=3,
    flush_interval=5,
    redis_start=True,
    procs_number=2,
    on_error='fail', port=PORT,
)

with dispenser:
    dispenser.run()
"""

CLIENT = """
from taskyard.brokers.redis.server import OwnServer
from taskyard.compat.task_dispenser import DispenserClient
from taskyard.errors import BrokerInaccessible, QueueFull

client = DispenserClient(port=PORT)
client.add(qname='q1', task_args=(1,))
"""

ERRORS = """
import sys
import handlers
from taskyard.compat.task_dispenser import Dispenser

def told(error):
    text = f"{error} of {error.queue}, {error.func.__name__}, {type(error.original).__name__}"
    print("told", text, "in fail" in error.get_traceback(), flush=True)

def enough(error):
    raise RuntimeError("enough of this") from error

def leave(error):
    sys.exit(7)

if __name__ == "__main__":
    with Dispenser(
        {'bad': handlers.fail, 'good': handlers.held}, 3, 0.1, port=PORT,
        procs_number=PROCESSES, on_error=ON_ERROR,
    ) as dispenser:
        print("begins", flush=True)
        dispenser.run()
"""


class Site:
    """Runs commands and programs in a folder of their own.

    Arguments:
        folder: where.
        port: of the Redis that commands are told to use.
        binary: what `--redis-start` finds.
    """

    def __init__(self, folder: Path, port: int, binary: Binary) -> None:
        self.folder = folder
        self.port = port
        self.programs: list[Program] = []
        self.server = binary.path
        path = os.pathsep.join(map(str, (Path(sys.executable).parent, binary.path.parent)))
        self.environment = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}
        for name in ("TASKYARD_BROKER", "TASKYARD_REDIS_PASS"):
            self.environment.pop(name, None)

    def python(self, *args: str) -> Program:
        program = Program([sys.executable, *args], self.folder, self.environment)
        self.programs.append(program)
        return program

    def program(self, text: str, **values: object) -> Program:
        """Run a program that is in a file, as it is printed."""
        for name, value in {"PORT": self.port, **values}.items():
            text = re.sub(rf"\b{name}\b", str(value), text)
        (self.folder / "program.py").write_text(text)
        return self.python("-u", "program.py")

    def begin(self, line: str) -> Program:
        """`task-dispenser start …`."""
        args = shlex.split(line)
        return self.python(
            "-u", "-m", "taskyard.compat.task_dispenser", "start", *args, "-P", str(self.port)
        )

    def start(self, line: str, processes: int = 1) -> Program:
        """The same, once all of its processes work."""
        program = self.begin(line)
        program.wait_for("worker .* started", max(1, processes))
        return program

    def run(self, *args: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *args],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def command(self, line: str, code: int = 0) -> str:
        """`task-dispenser …`, to its end; gives what it printed."""
        module = "taskyard.compat.task_dispenser"
        return self.run(module, *shlex.split(line), "-P", str(self.port), code=code)

    def add(self, qname: str, *values: Any) -> None:
        with DispenserClient(port=self.port) as client:
            for value in values:
                client.add(qname, value)

    def dead(self) -> list[Any]:
        """The values of the dead letters."""
        with Yard(f"redis://127.0.0.1:{self.port}") as yard:
            letters = yard.dead.list(limit=1000)
        pairs = [(letter.body, read_envelope(letter.body)) for letter in letters]
        return [body if one is None else one.payload[0] for body, one in pairs]

    def close(self) -> None:
        for program in self.programs:
            program.destroy()


@contextmanager
def site_at(folder: Path, port: int, binary: Binary) -> Iterator[Site]:
    (folder / "handlers.py").write_text(HANDLERS)
    (folder / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "simple_task.py", folder / "examples")
    made = Site(folder, port, binary)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def site(tmp_path: Path, redis_server: RedisServer) -> Iterator[Site]:
    """On a server that runs."""
    with site_at(tmp_path, redis_server.port, redis_server.binary) as made:
        yield made


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Site]:
    """At a port where no server is."""
    with site_at(tmp_path, free_port(), required()) as made:
        yield made


# The document


def test_the_commands_of_the_document(alone: Site) -> None:
    program = alone.start(
        "-t q1 print -t q2 task_dispenser.utils:failed_task "
        "-t q3 examples/simple_task.py:task_func "
        "--redis-start --procs-number 2 --on-error=log --batch-size=3 --log-level=debug",
        processes=2,
    )
    alone.command("add -t q1 1 -t q2 2 -t q3 3 -n 5 --log-level=debug")
    for size in (3, 2):  # the second one after the flush interval
        program.wait_for(rf"^{re.escape(str([1] * size))}$")
        program.wait_for(rf"^task_func got {size}: {re.escape(str([3] * size))}$")
        program.wait_for(rf"failed_task failed with a batch of {size} from queue q2")
    program.wait_for("ValueError: Failed", 2)
    wait_until(lambda: alone.dead() == [2] * 5, "the dead letters")
    assert "q2" in alone.run("taskyard", "queues")  # which finds that server
    assert program.stop() == 0


def test_the_program_of_the_document(alone: Site) -> None:
    program = alone.program(SERVER)
    with redis.Redis(port=alone.port) as client:
        wait_until(client.ping, "the server of the program")
        assert alone.python("-c", CLIENT.replace("PORT", str(alone.port))).wait() == 0
        client.lpush("q1", "[2]")
        client.lpush("taskyard:inbox:q1", '{"three": 3}')
        (found,) = program.wait_for(r"^\[.*three.*\]$")
        assert sorted(map(str, eval(found[0]))) == ["[1]", "[2]", "{'three': 3}"]
        client.lpush("q3", *"123")
        program.wait_for(r"^task_func got 3: \[1, 2, 3\]$")
        client.lpush("q2", *"123")
    assert program.wait() == 1
    assert "WorkerError: stopped at the first dead letter" in program.output
    assert program.output.count("ValueError: Failed") > 1
    with OwnServer(port=alone.port, datadir=alone.folder / "taskyard-redis", program=alone.server):
        assert alone.dead() == [1, 2, 3]


def test_the_call_of_the_image(tmp_path: Path) -> None:
    with (
        RedisServer(binary=required(), password="pass") as server,
        site_at(tmp_path, server.port, server.binary) as site,
    ):
        program = site.start("-t q1 print -t q3 print -b 5 -n 0 --redis-pass pass")
        site.command(
            "add -t q1 1 -t q3 3 -n 5 --log-level=debug --redis-host=localhost --redis-pass pass"
        )
        program.wait_for(r"^\[1, 1, 1, 1, 1\]$")
        program.wait_for(r"^\[3, 3, 3, 3, 3\]$")
        assert program.stop() == 0


def test_the_console_script() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["task-dispenser"].partition(":")
    code = f"import sys, {module}; {module}.{name}()"
    done = subprocess.run(
        [sys.executable, "-c", code, "start", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stdout.startswith("Usage: task-dispenser start")


# What comes in


def test_plain_producers_wake_it_by_both_keys(site: Site, redis_server: RedisServer) -> None:
    names = ["q1", "2", "a b"]
    program = site.start(" ".join(f"-t '{name}' print" for name in names) + " -b 1 -n 0")
    client = redis_server.client()
    for number, name in enumerate(names):
        for key in (name, f"taskyard:inbox:{name}"):
            client.lpush(key, json.dumps([key, number]))
            program.wait_for(rf"^\[\['{key}', {number}\]\]$")
    client.lpush("q1", "no JSON")
    assert program.wait() == 1  # the default is to fail, and the value is kept
    assert "Error: stopped at the first dead letter" in program.output
    assert site.dead() == [b"no JSON"]


def test_what_waits_and_what_a_full_queue_refuses_is_not_lost(
    site: Site, redis_server: RedisServer
) -> None:
    client = redis_server.client()
    client.lpush("q1", *map(str, range(10)))
    client.lpush("taskyard:inbox:q1", *map(str, range(10, 20)))
    with Yard(redis_server.url) as yard:
        yard.bound("q1", max_length=3)
    site.add("q1", 20, 21, 22)
    with pytest.raises(QueueFull):
        site.add("q1", 23)
    program = site.start("-t q1 handlers:starred -b 2 -i 0.1 -n 0")
    numbers: set[int] = set()
    while len(numbers) < 23:
        program.wait_for("^starred ", len(numbers) // 2 + 1)
        lines = [line for line in program.lines if line.startswith("starred ")]
        numbers = {number for line in lines for number in eval(line.removeprefix("starred "))[0]}
    assert numbers == set(range(23))
    assert program.stop() == 0


# What goes wrong


@pytest.mark.parametrize(
    ("on_error", "processes"),
    [("'fail'", 1), ("'log'", 0), ("told", 1), ("enough", 0), ("enough", 1), ("leave", 0)],
)
def test_a_function_that_raises(site: Site, on_error: str, processes: int) -> None:
    site.add("bad", 1, 1, 1)
    program = site.program(ERRORS, PROCESSES=processes, ON_ERROR=on_error)
    if on_error in ("'fail'", "enough", "leave"):
        assert program.wait() == (7 if on_error == "leave" else 1)
        assert ("RuntimeError: enough of this" in program.output) is (on_error == "enough")
    else:
        shown = "^told .*of bad, fail, ValueError True$" if on_error == "told" else "in fail"
        program.wait_for(shown)
        (site.folder / "go").touch()
        site.add("good", 2)
        program.wait_for(r"^end \[2\]")
        assert program.stop() == 0
    assert "Failed [1, 1, 1]" in program.output
    assert site.dead() == [1, 1, 1]


def test_a_killed_process_costs_nothing(site: Site, redis_server: RedisServer) -> None:
    redis_server.client().lpush("q1", *"123")
    program = site.start("-t q1 handlers:held -b 3")
    (begun,) = program.wait_for(r"^begin \[1, 2, 3\] in (\d+)")
    os.kill(int(begun[1]), signal.SIGKILL)
    program.wait_for("died .SIGKILL.")
    (site.folder / "go").touch()
    assert numbers_at_end(program, 3) == {1, 2, 3}
    assert program.stop() == 0
    assert site.dead() == []


def numbers_at_end(program: Program, count: int) -> set[int]:
    """The numbers of the batches that ended, when they are so many."""
    ended: set[int] = set()
    seen = 0
    while len(ended) < count:
        seen += 1
        program.wait_for("^end ", seen)
        found = program.wait_for(r"^end (\[.*\])", seen)
        ended = {number for one in found for number in eval(one[1])}
    return ended


@pytest.mark.parametrize(("processes", "own_server"), [(0, True), (2, False)])
def test_a_killed_dispenser_costs_nothing(
    tmp_path: Path, redis_server: RedisServer, processes: int, own_server: bool
) -> None:
    port = free_port() if own_server else redis_server.port
    with site_at(tmp_path, port, redis_server.binary) as site:
        line = f"-t q1 handlers:held -b 3 -i 0.1 -n {processes} --lease 1"
        line += " --redis-start" if own_server else ""
        first = site.start(line, processes)
        with redis.Redis(port=port) as client:
            client.lpush("q1", *"123")  # at once: the batch does not wait for more
        first.wait_for(r"^begin \[1, 2, 3\]")
        site.add("q1", 4)
        first.destroy()
        if own_server:
            wait_until(lambda: is_free(port), "the end of its server")
        (site.folder / "go").touch()
        second = site.start(line, processes)
        assert numbers_at_end(second, 4) == {1, 2, 3, 4}
        assert second.stop() == 0


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_batch_that_outlives_its_lease_is_run_once(site: Site) -> None:
    line = "-t q1 handlers:slow -b 2 --lease 3 -n 0"
    programs = [site.begin(line) for _ in range(2)]
    for program in programs:
        program.wait_for("worker .* started")
    site.add("q1", 1, 1)
    wait_until(lambda: any("end [1, 1]" in one.lines for one in programs), "the end of the call")
    assert [program.stop() for program in programs] == [0, 0]
    assert sum(one.output.count("begin [1, 1]") for one in programs) == 1


def test_two_dispensers_share_a_queue(site: Site, redis_server: RedisServer) -> None:
    programs = [site.begin("-t q1 handlers:together -b 1 -n 0") for _ in range(2)]
    redis_server.client().lpush("q1", "1", "2")
    for program in programs:
        program.wait_for(rf"^met \[[12]\] in {program.process.pid}")
    assert [program.stop() for program in programs] == [0, 0]


@pytest.mark.parametrize("processes", [0, 1])
def test_ctrl_c_lets_a_running_call_end(site: Site, processes: int) -> None:
    site.add("good", 1)
    program = site.program(ERRORS, PROCESSES=processes, ON_ERROR="'fail'")
    program.wait_for(r"^begin \[1\]")
    os.killpg(program.process.pid, signal.SIGINT)  # as a terminal does
    (site.folder / "go").touch()
    assert program.wait() == 0
    assert program.wait_for(r"^end \[1\]")
    assert "Traceback" not in program.output


def test_a_wrong_password_is_refused_at_once_and_none_is_told(tmp_path: Path) -> None:
    with (
        RedisServer(binary=required(), password=SECRET) as server,
        site_at(tmp_path, server.port, server.binary) as site,
    ):
        wrong = site.begin("-t q1 print -p wrong")
        assert wrong.wait() == 1
        assert "Traceback" not in wrong.output
        for password in (None, "wrong"):
            with (
                DispenserClient(port=server.port, password=password) as client,
                pytest.raises(BrokerInaccessible),
            ):
                client.add("q1", 1)
        site.environment["TASKYARD_REDIS_PASS"] = SECRET
        site.command("add -t q1 1")
        good = site.start("-t q1 print -b 1 --log-level=debug -n 0")
        good.wait_for(r"^\[1\]$")
        assert good.stop() == 0
        for secret in (SECRET, QUOTED):
            assert secret not in wrong.output + good.output


def test_a_port_that_is_taken(site: Site) -> None:
    program = site.program(SERVER)
    assert program.wait() == 1
    assert "runs there already" in program.output


def test_it_waits_for_a_server_that_is_away(alone: Site) -> None:
    program = alone.begin("-t q1 print -b 1 -n 0")
    program.wait_for("Connection refused")
    with RedisServer(binary=required(), port=alone.port) as server:
        program.wait_for("worker .* started")
        server.client().lpush("q1", "1")
        program.wait_for(r"^\[1\]$")
        assert program.stop() == 0


def test_short_options_and_a_log_of_ones_own(site: Site) -> None:
    site.command("add -t q1 1 -n 2 -H 127.0.0.1 -l debug -f add.txt -F json")
    program = site.begin(
        "-t q1 print -b 2 -i 60 -n 0 -e log -H 127.0.0.1 -l DEBUG -f log.txt "
        "-F '%(levelname)s | %(message)s'"
    )
    program.wait_for(r"^\[1, 1\]$")
    assert program.stop() == 0
    logged = (site.folder / "log.txt").read_text()
    assert re.search(r"^INFO \| worker .* started", logged, re.MULTILINE)
    assert program.lines == ["[1, 1]"]


# Values


@dataclass
class Point:
    x: int
    y: int


class Text(str):
    __slots__ = ()


class Real(float):
    """As numpy's are."""


def test_what_is_added_arrives_as_json(redis_server: RedisServer) -> None:
    values: list[tuple[Any, Any]] = [
        ((1,), [1]),
        ([1, {"a": None}], [1, {"a": None}]),
        ({1: (2, 3)}, {"1": [2, 3]}),
        ("text", "text"),
        (None, None),
        (1.5, 1.5),
        (datetime(2030, 1, 2, tzinfo=UTC), "2030-01-02T00:00:00Z"),
        (Point(1, 2), {"x": 1, "y": 2}),
        ([Text("text"), Real(1.5)], ["text", 1.5]),
        ([[]] * 3000, [[]] * 3000),
    ]
    got: list[Any] = []
    with (
        DispenserClient(port=redis_server.port) as client,
        Yard(redis_server.url) as yard,
    ):
        ids = {client.add("q1", given) for given, _ in values}
        client.add(qname="q1", task_args=(1, "two"))
        client.add(qname="q1", args=3)
        serve_plain(yard, "q1", got.extend, called="extend", size=100, within=1, typed=False)
        yard.run_worker(burst=True)
    assert len(ids) == len(values)
    assert got == [*(expected for _, expected in values), [1, "two"], 3]
