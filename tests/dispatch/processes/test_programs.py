"""Programs that run calls in processes: where the function is defined, signals, deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.dispatch.processes.listening import Listener, listening

ROOT = Path(__file__).parents[3]
HEAD = """
import sys
import taskyard
from tests.dispatch.processes import functions
from taskyard.dispatch.run import run
method = sys.argv[1] if len(sys.argv) > 1 else None
options = dict(workers=2, kind="processes", start_method=method)
"""


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


def started(path: Path, text: str, *args: str, **options: Any) -> subprocess.Popen[str]:
    program = path / "program.py"
    program.write_text(HEAD + text)
    paths = [str(ROOT), str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return subprocess.Popen(
        [sys.executable, "-W", "error::DeprecationWarning", str(program), *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=40)
    assert (process.returncode, err) == (0, ""), err
    return out


MAIN = """
class Thing:
    def __init__(self, number):
        self.number = number

def triple(item):
    print(f"item {item.number}\\n", end="")  # in one piece, as two processes do it
    return Thing(item.number * 3)

if __name__ == "__main__":
    done = run(triple, [Thing(1), Thing(2)], **options)
    print([each.number for each in done.results()])
    factor = 5
    def times(item):
        return item * factor
    print(run(times, 3, **options).results())
    print(run(lambda item: item + factor, 3, **options).results())
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_functions_of_the_main_module_and_closures(tmp_path: Path, method: str) -> None:
    lines = output(started(tmp_path, MAIN, method)).splitlines()
    assert sorted(lines) == ["[0, 5, 10]", "[3, 6]", "[5, 6, 7]", "item 1", "item 2"]


THREADED = """
import threading
if __name__ == "__main__":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    factor = 5
    # Neither fork nor a warning of it, as there is another thread.
    where = lambda item: (item * factor, sys.modules["__main__"].__name__)
    print(run(where, 3, **options).results())
"""


def test_with_threads_nothing_is_forked_from_the_program(tmp_path: Path) -> None:
    assert output(started(tmp_path, THREADED)).count("__mp_main__") == 3


def test_without_a_guard_there_is_an_error_and_no_loop(tmp_path: Path) -> None:
    process = started(tmp_path, "run(functions.double, 3, **options)\n", "spawn")
    _, err = process.communicate(timeout=40)
    assert process.returncode == 1
    assert "WorkerError: worker processes end before they can work" in err
    assert "if __name__ == '__main__':" in err


STOPPED = """
if __name__ == "__main__":
    items = [(sys.argv[2], "a"), (sys.argv[2], "b")] + [("", "c")] * 100
    done = run(functions.talk, items, runtime=None, **options)
    print(done.counts.completed, done.counts.undispatched, done.info.interrupted)
"""


@pytest.mark.parametrize(("method", "number"), [("fork", signal.SIGTERM), ("spawn", signal.SIGINT)])
def test_a_signal_to_all_stops_in_order(
    tmp_path: Path, listener: Listener, method: str, number: signal.Signals
) -> None:
    process = started(tmp_path, STOPPED, method, listener.address)
    talks = [listener.accept(), listener.accept()]
    os.killpg(process.pid, number)
    assert process.stderr is not None
    assert "no more calls are begun, 2 are under way" in process.stderr.readline()
    for said, talk in talks:
        assert said in {"a", "b"}
        talk.sendall(b"end")
    for _, talk in talks:
        talk.close()
    assert output(process) == f"2 100 {number.name}\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_end_with_a_program_that_is_killed(
    tmp_path: Path, listener: Listener, method: str
) -> None:
    process = started(tmp_path, STOPPED, method, listener.address)
    talks = [listener.accept(), listener.accept()]
    process.kill()
    process.communicate(timeout=40)
    for _, talk in talks:
        assert talk.recv(1) == b""  # its other end is closed with the process
        talk.close()


ADD_ONE = "lambda item: item + 1"


def test_functions_of_a_program_that_has_no_file() -> None:
    program = (
        f"{HEAD}options['start_method'] = 'spawn'\nprint(run({ADD_ONE}, 3, **options).results())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=40, check=True
    )
    assert done.stdout == "[1, 2, 3]\n"


CHILDREN = """
import os, signal

def reap(*of):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass

ways = {
    "ignores": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    "reaps": lambda: signal.signal(signal.SIGCHLD, reap),
    "blocks": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD]),
}

if __name__ == "__main__":
    ways[sys.argv[2]]()
    for _ in range(2):
        counts = run(functions.die, [1, "kill", 3], **options).counts
        print(counts.lost, counts.completed + counts.unknown)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("way", ["ignores", "reaps", "blocks"])
def test_what_a_program_does_about_the_ends_of_its_children(
    tmp_path: Path, way: str, method: str
) -> None:
    assert output(started(tmp_path, CHILDREN, method, way)) == "1 2\n1 2\n"
