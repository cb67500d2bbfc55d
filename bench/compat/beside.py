"""Measuring the same on an original and on taskyard, in one run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.measure import Child, Place, interleaved
from bench.peers.environments import NotInstalled, python_of, sections
from bench.redis_server import redis_server

__all__ = ["OURS", "Bench", "Case", "Floor", "RedisBench", "Row"]

OURS = "taskyard"
TIMEOUT = 300


@dataclass(frozen=True)
class Floor:
    """How we must stand beside an original: at least so many times as fast."""

    times: float
    original: str


class Case(NamedTuple):
    """What is run of somebody.

    Arguments:
        python: the interpreter of its environment.
        function: of the benchmark's package: its module and name; it answers a mapping.
        arguments: what it takes.
    """

    python: str
    function: str
    arguments: Mapping[str, Any]


@dataclass
class Row:
    """One thing that is measured of all.

    Arguments:
        name: what it is.
        unit: of its figures.
        floors: what we promise beside others.
        less_is_better: whether smaller figures are the better ones.
        bound: what we promise by itself: our figure is not worse than this.
        samples: figures by whose they are, one per round.
        failures: what went wrong, likewise.
    """

    name: str
    unit: str = "requests/s"
    floors: tuple[Floor, ...] = ()
    less_is_better: bool = False
    bound: float | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def value(self, who: str) -> float | None:
        """The median of somebody's figures, if there are some."""
        samples = self.samples.get(who)
        return median(samples) if samples else None

    def standing(self, floor: Floor) -> float | None:
        """How many times as fast we are as an original."""
        ours, theirs = self.value(OURS), self.value(floor.original)
        if not ours or not theirs:
            return None
        return theirs / ours if self.less_is_better else ours / theirs

    def promises(self) -> list[tuple[str, bool]]:
        """What we promise, as far as it was measured: in words, and whether it is kept."""
        found = [
            (f"{standing:.2f} × {floor.original}, {floor.times:g} is", standing >= floor.times)
            for floor in self.floors
            if (standing := self.standing(floor)) is not None
        ]
        if self.bound is not None and (ours := self.value(OURS)) is not None:
            most_or_least, kept = (
                ("at most", ours <= self.bound)
                if self.less_is_better
                else ("at least", ours >= self.bound)
            )
            found.append((f"{most_or_least} {self.bound:,g} is", kept))
        return found


class Bench:
    """Runs programs in the environments of all.

    Arguments:
        package: where the programs are, below this one.
        place: where files go.
        repeats: rounds.
        quick: fewer messages.
    """

    def __init__(self, package: str, place: Place, repeats: int, *, quick: bool) -> None:
        self.package = package
        self.place = place
        self.repeats = repeats
        self.quick = quick

    def pythons(self, originals: dict[str, str]) -> dict[str, str]:
        """The interpreters of the originals that can be installed, and ours.

        Arguments:
            originals: their sections of the package's `requirements.txt`, by name.
        """
        requirements = Path(__file__).parent.parent / self.package / "requirements.txt"
        found, known = {OURS: sys.executable}, sections(requirements)
        for name, section in originals.items():
            try:
                found[name] = python_of(section, known[section])
            except NotInstalled as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
        return found

    def measure(self, row: Row, pythons: dict[str, str], function: str, **arguments: Any) -> Row:
        """Measure a row by the same function for all: each round all of them, in another order.

        Arguments:
            row: gets the figures.
            pythons: the interpreters by whose they are.
            function: its module and name; it answers a mapping with `value`.
            arguments: what it takes.
        """
        cases = {who: Case(python, function, arguments) for who, python in pythons.items()}
        return self.measure_each({"value": row}, cases)[0]

    def measure_each(self, rows: Mapping[str, Row], cases: Mapping[str, Case]) -> list[Row]:
        """Measure rows by what each has of its own: each round all of them, in another order.

        Arguments:
            rows: get the figures, by what they are called in the answers.
            cases: what to run, by whose it is.

        Returns:
            The rows.
        """
        if sys.stderr.isatty():
            print(f"measuring: {', '.join(row.name for row in rows.values())} …", file=sys.stderr)
        runs: dict[str, Callable[[], Any]] = {
            who: partial(self._sample, rows, who, case) for who, case in cases.items()
        }
        interleaved(self.repeats, runs)
        return list(rows.values())

    def _sample(self, rows: Mapping[str, Row], who: str, case: Case) -> None:
        log = self.place.path / "child.log"
        with self.surroundings() as found, log.open("w") as errors:
            function, arguments = f"{self.package}.{case.function}", {**found, **case.arguments}
            child = Child(function, python=case.python, errors=errors, **arguments)
            try:
                answer = child.reply(TIMEOUT)
                for name in rows.keys() & answer.keys():
                    rows[name].samples.setdefault(who, []).append(answer[name])
            except (RuntimeError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                for row in rows.values():
                    row.failures[who] = " ".join([str(error), *last])
            finally:
                child.process.kill()

    @contextmanager
    def surroundings(self) -> Iterator[dict[str, Any]]:
        """What each run has for itself, as arguments."""
        yield {}


class RedisBench(Bench):
    """Each time on a server of its own."""

    @contextmanager
    def surroundings(self) -> Iterator[dict[str, Any]]:
        with self.place.folder() as folder, redis_server(folder) as url:
            yield {"url": url}
