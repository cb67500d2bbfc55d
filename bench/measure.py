"""Fresh processes, folders of their own, and medians."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent


class Child:
    """A process that runs a function of this package.

    Arguments:
        function: its module and name, as in "bare.put".
        python: in which environment.
        errors: where what it complains of goes; None: where this process's goes.
        arguments: what it takes.
    """

    def __init__(
        self,
        function: str,
        /,
        *,
        python: str = sys.executable,
        errors: IO[str] | None = None,
        **arguments: Any,
    ) -> None:
        self._name = function
        module, _, name = function.rpartition(".")
        self.process = subprocess.Popen(
            [python, "-m", "bench.child", module, name, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
        )

    def wait_ready(self) -> None:
        """Wait until it could begin."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != "ready\n":
            raise RuntimeError(f"{self._name} did not get ready: {line!r}")

    def line(self) -> Any:
        """Wait for something that it says on its way."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def go(self) -> None:
        """Let it begin, or go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def reply(self, timeout: float | None = None) -> Any:
        """Wait for its figures, for so many seconds."""
        output, _ = self.process.communicate(timeout=timeout)
        if self.process.returncode:
            raise RuntimeError(f"{self._name} ended with {self.process.returncode}")
        return json.loads(output.splitlines()[-1])


def run(function: str, /, **arguments: Any) -> Any:
    """Run a function of this package in a fresh process and return its figures."""
    return Child(function, **arguments).reply()


class Place:
    """Where the measurements of one run put their files.

    Arguments:
        parent: a folder on the file system that is to be measured.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for one measurement, removed behind it."""
        path = Path(tempfile.mkdtemp(dir=self.path))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.path, ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    """Copy a file down to the disk, so that no write-back disturbs what follows."""
    shutil.copyfile(source, target)
    descriptor = os.open(target, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


Samples = dict[str, list[Any]]


def interleaved(repeats: int, cases: Mapping[str, Callable[[], Any]]) -> Samples:
    """Measure cases in turn, each round in another order, so that noise hits all of them alike.

    Arguments:
        repeats: rounds.
        cases: what to measure, by name.

    Returns:
        The figures of each case, by round.
    """
    shuffler = random.Random(repeats)
    samples: Samples = {name: [] for name in cases}
    for _ in range(repeats):
        names = list(cases)
        shuffler.shuffle(names)
        for name in names:
            samples[name].append(cases[name]())
    return samples


def ratio(ours: list[float], base: list[float]) -> float:
    """The median of the ratios of each round."""
    return median(a / b for a, b in zip(ours, base, strict=True))
