"""A target for load."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PROGRAM = Path(__file__).with_name("target.py")


class Served(NamedTuple):
    """A request, as the target saw it; instants are unix seconds."""

    call: int
    began: float
    ended: float
    status: int


class Target(NamedTuple):
    """A running target."""

    port: int

    def _log(self) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", "/log")
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def served(self) -> list[Served]:
        """What it served, in this order."""
        return [Served(*entry) for entry in self._log()["served"]]

    def stalls(self) -> list[tuple[float, float]]:
        """From when until when it stood still."""
        return [(began, ended) for began, ended in self._log()["stalls"]]


Start = Callable[..., Target]


@contextmanager
def _started(options: dict[str, Any]) -> Iterator[Target]:
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            port = process.stdout.readline().strip()
            assert port, "the target did not start"
            yield Target(int(port))
        finally:
            process.kill()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts targets; what they take, target.py says."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(_started(options))
