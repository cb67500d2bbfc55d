"""What the tests of taskkit's front door hold its processes by."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import redis
from tests.acceptance.compat.taskkit_program import BEGAN, go_key, kit_of
from tests.faults.scene import until

__all__ = ["PATIENCE", "ROOT", "Program", "Scene"]

ROOT = Path(__file__).parents[3]
PATIENCE = 30.0


class Program:
    """A process of a program, with its children.

    Arguments:
        command: what is run, behind `python`.
        log: where its output goes.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def said(self, text: str) -> str:
        """Wait for a whole line of its output that has a text in it."""
        return until(
            lambda: next((line for line in self._lines() if text in line), None),
            f"{text!r} in {self.log}",
        )

    def _lines(self) -> list[str]:
        """The lines that have been printed to their ends."""
        return self.output().split("\n")[:-1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; its exit code."""
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Scene:
    """A server, programs that work there, and a kit of one's own.

    Arguments:
        url: of the server.
        folder: an empty one.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url, decode_responses=True, socket_timeout=None)
        self.kit = kit_of(url)
        self._folder = folder
        self._programs: list[Program] = []

    def close(self) -> None:
        for program in self._programs:
            program.end()
        self.kit.yard.close()
        self.kit.handler.client.close()  # type: ignore[attr-defined]
        self.client.close()

    def run(self, command: list[str]) -> Program:
        program = Program(command, self._folder / f"{len(self._programs)}.log")
        self._programs.append(program)
        return program

    def start(self, *, workers: int | None = None, **config: Any) -> Program:
        """Run the program, and wait until its workers are there."""
        known = {one.id for one in self.kit.yard.workers()}
        config = {"url": self.url, "groups": {"g": 2}, **config}
        module = "tests.acceptance.compat.taskkit_program"
        program = self.run(["-m", module, json.dumps(config)])
        wanted = config.get("processes", 1) if workers is None else workers
        until(
            lambda: len({one.id for one in self.kit.yard.workers()} - known) == wanted,
            f"{wanted} workers; see {program.log}",
        )
        return program

    def do(self, deed: str, group: str = "g", name: str = "t", **more: Any) -> Any:
        """Initiate a task; its result."""
        options = {key: more.pop(key) for key in ("due", "ttl", "eager") if key in more}
        return self.kit.initiate_task(group, name, {"do": deed, **more}, **options)

    def began(self) -> dict[str, Any]:
        """Wait for the next task that notes that it began."""
        found: Any = self.client.blpop([BEGAN], PATIENCE)
        assert found is not None, "nothing began"
        noted: dict[str, Any] = json.loads(found[1])
        return noted

    def nothing_began(self) -> bool:
        return not self.client.exists(BEGAN)

    def go(self, key: str) -> None:
        """Let a task that holds go on."""
        self.client.rpush(go_key(key), "")
