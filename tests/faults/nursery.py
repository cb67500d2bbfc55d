"""Where processes of `tests.faults.program` come from: forks of one that imported it already.

Hundreds are started, and imports took most of their lives. The nursery is a process of its own,
without threads or connections that a fork could break; it ends when nobody holds its socket.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

from tests.faults import program

__all__ = ["Child", "start"]

ROOT = Path(__file__).parents[2]


class Child:
    """A process, in a session of its own.

    Attributes:
        pid: its id.
    """

    def __init__(self, pid: int, nursery: _Nursery) -> None:
        self.pid = pid
        self._nursery = nursery
        # Its number is its own until the nursery is asked for its code.
        self._end = os.pidfd_open(pid)
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, once it has ended; as `subprocess` tells it."""
        return self._look(0)

    def wait(self, seconds: float | None = None) -> int:
        """Wait for its end; its exit code."""
        code = self._look(seconds)
        if code is None:
            raise TimeoutError(f"process {self.pid} did not end in {seconds} s")
        return code

    def _look(self, seconds: float | None) -> int | None:
        if self._code is None:
            ends = select.poll()
            ends.register(self._end, select.POLLIN)
            if ends.poll(None if seconds is None else seconds * 1000):
                self._code = self._nursery.ask({"pid": self.pid})
                os.close(self._end)
        return self._code


def start(config: bytes, log: Path) -> Child:
    """Start a process.

    Arguments:
        config: what it is told, see `program.Config`.
        log: the file that gets its output.
    """
    nursery = _nursery()
    return Child(nursery.ask({"config": config.decode(), "log": str(log)}), nursery)


@functools.cache
def _nursery() -> _Nursery:
    """That of this process."""
    made = _Nursery()
    atexit.register(made.close)
    return made


class _Nursery:
    def __init__(self) -> None:
        here, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.nursery", str(there.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                start_new_session=True,  # Ctrl-C is for the tests
            )
        self._lines = here.makefile("rw")
        here.close()

    def ask(self, request: dict[str, object]) -> int:
        """Ask for a process, or for the exit code of one that has ended."""
        self._lines.write(json.dumps(request) + "\n")
        self._lines.flush()
        return int(self._lines.readline())

    def close(self) -> None:
        self._lines.close()
        self._process.wait()


# Inside the nursery


def serve(descriptor: int) -> bytes | None:
    """Start what is asked for, until nobody asks any more.

    Returns:
        In a process that was started, what it is told.
    """
    with socket.socket(fileno=descriptor) as asked, asked.makefile("rw") as lines:
        for line in lines:
            request = json.loads(line)
            if "pid" in request:
                _, status = os.waitpid(request["pid"], 0)
                lines.write(f"{os.waitstatus_to_exitcode(status)}\n")
                lines.flush()
            elif not os.fork():
                os.setsid()
                log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.close(log)
                lines.write(f"{os.getpid()}\n")
                lines.flush()
                return str(request["config"]).encode()
    return None


if __name__ == "__main__":
    config = serve(int(sys.argv[1]))
    if config is not None:
        program.main(config)
