"""`python -m bench.peers`: taskyard beside other task queues on Redis, each with its best settings.

One server on this machine keeps nothing on the disk (`appendonly no`); every trial has a fresh one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.machine import describe
from bench.measure import ROOT, Child, Place, interleaved
from bench.peers.environments import NotInstalled, python_of, sections
from bench.redis_server import find_server, redis_server, version
from bench.rows import number

OURS = ("ours", "ours_async")
TIMEOUT = 180
FIGURES = {
    "enqueue_1": "enqueue, 1 at once\nmessages/s",
    "enqueue_8": "enqueue, 8 at once\nmessages/s",
    "drain": "drain\nmessages/s",
    "p50": "pick-up p50\nms",
    "p99": "pick-up p99\nms",
}


@dataclass
class Entry:
    """A row of the table.

    Arguments:
        peer: the name of its module.
        python: where it is installed.
        about: what `trials.about` says of it.
        samples: its figures by name, one per round.
        failures: what went wrong.
    """

    peer: str
    python: str
    about: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the table calls it."""
        return {"ours": "taskyard", "ours_async": "taskyard, async"}.get(self.peer, self.peer)

    def value(self, figure: str) -> float | None:
        """The median of a figure, if there is one."""
        samples = self.samples.get(figure)
        return median(samples) if samples else None


class Failed(Exception):
    """A trial did not end well; says how."""


def main() -> int:
    options = _parse()
    if find_server() is None:
        print("there is no redis-server; `make servers` gets one", file=sys.stderr)
        return 2
    names = [*OURS, *sections()]
    if options.only:
        unknown = sorted(set(options.only.split(",")) - set(names))
        if unknown:
            print(f"unknown: {', '.join(unknown)}; there are {', '.join(names)}", file=sys.stderr)
            return 2
        names = options.only.split(",")
    place = Place(options.dir)
    try:
        trials = Trials(place, options.quick)
        machine = describe(place.path) | {"redis": trials.version()}
        entries = [_prepare(trials, name) for name in names]
        _measure(trials, entries, options.repeat or (1 if options.quick else 3))
    finally:
        place.close()
    promises = _promises(entries)
    _print(entries, promises, machine)
    if options.json:
        _write(options.json, entries, promises, machine)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer messages, one round")
    parser.add_argument("--only", metavar="NAME,…", help=", ".join([*OURS, *sections()]))
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds (3; quick: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--dir", type=Path, default=ROOT / "build", help="for files (build/)")
    return parser.parse_args()


# Measuring


class Trials:
    """Runs trials, each on a fresh server.

    Arguments:
        place: where files go.
        quick: fewer messages.
    """

    def __init__(self, place: Place, quick: bool) -> None:
        self._place = place
        self._quick = quick

    def version(self) -> str:
        """The server's."""
        with self._place.folder() as folder, redis_server(folder) as url:
            return version(url)

    def child(self, entry: Entry, function: str, **arguments: Any) -> Any:
        """Run a function of `bench.peers.trials` in a peer's environment.

        Raises:
            Failed: it did not answer.
        """
        log = self._place.path / f"{entry.peer}.log"
        with log.open("w") as errors:
            child = Child(
                f"peers.trials.{function}",
                python=entry.python,
                errors=errors,
                peer=entry.peer,
                **arguments,
            )
            try:
                return child.reply(TIMEOUT)
            except (RuntimeError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise Failed(f"{function}: {' '.join([str(error), *last])}") from error
            finally:
                child.process.kill()

    def run(self, entry: Entry, figure: str) -> dict[str, float]:
        """Measure a figure."""
        count = entry.about["count"] // (4 if self._quick else 1)
        with self._place.folder() as folder, redis_server(folder) as url:
            if figure == "drain":
                self.child(entry, "fill", url=url, count=count)
                return {"drain": self.child(entry, "drain", url=url, count=count)["rate"]}
            if figure == "latency":
                seconds = self.child(entry, "latency", url=url, count=200)["seconds"]
                cuts = quantiles(seconds, n=100, method="inclusive")
                return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}
            at_once = int(figure.removeprefix("enqueue_"))
            put = 1_000 if self._quick else 10_000
            reply = self.child(entry, "enqueue", url=url, count=put, at_once=at_once)
            return {figure: reply["rate"]}


def _prepare(trials: Trials, name: str) -> Entry:
    entry = Entry(name, sys.executable)
    try:
        if name not in OURS:
            entry.python = python_of(name, sections()[name])
        entry.about = trials.child(entry, "about")
    except (NotInstalled, Failed) as error:
        entry.failures.append(f"not installed: {error}")
    return entry


def _measure(trials: Trials, entries: list[Entry], repeats: int) -> None:
    for figure in ("enqueue_1", "enqueue_8", "drain", "latency"):
        if sys.stderr.isatty():
            print(f"measuring: {figure} …", file=sys.stderr)
        cases: dict[str, Callable[[], Any]] = {
            entry.peer: partial(_try, trials, entry, figure) for entry in entries if entry.about
        }
        interleaved(repeats, cases)


def _try(trials: Trials, entry: Entry, figure: str) -> None:
    try:
        found = trials.run(entry, figure)
    except Failed as error:
        entry.failures.append(str(error))
        return
    for name, value in found.items():
        entry.samples.setdefault(name, []).append(value)


# Reporting


def _promises(entries: list[Entry]) -> list[dict[str, Any]]:
    """What the project says about itself and the others: ours, theirs, and whether it holds."""
    ours = {entry.peer: entry for entry in entries if entry.peer in OURS}
    others = [entry for entry in entries if entry.peer not in OURS]

    def promise(
        text: str, figure: str, factor: float, peer: str = "ours", *, low: bool = False
    ) -> dict[str, Any] | None:
        values = {entry.name: value for entry in others if (value := entry.value(figure))}
        mine = ours[peer].value(figure) if peer in ours else None
        if not values or mine is None:
            return None
        best = (min if low else max)(values, key=lambda name: values[name])
        share = mine / values[best]
        return {
            "promise": text, "ours": mine, "best": best, "theirs": values[best],
            "ratio": share, "met": share <= factor if low else share >= factor,
        }  # fmt: skip

    found = [
        promise("drain at least 15 times as fast as the fastest", "drain", 15),
        promise("enqueue from 8 threads faster than each", "enqueue_8", 1),
        promise("pick up at p50 not behind the best", "p50", 1, low=True),
        promise("pick up at p99 not behind the best", "p99", 1, low=True),
    ]
    return [item for item in found if item]


def _print(entries: list[Entry], promises: list[dict[str, Any]], machine: dict[str, Any]) -> None:
    shown = Table(title="task queues on Redis, one process", title_justify="left")
    for column in ("", "versions", *FIGURES.values(), "settings"):
        shown.add_column(column, justify="right" if column in FIGURES.values() else "left")
    for entry in entries:
        about = entry.about
        values = [entry.value(figure) for figure in FIGURES]
        kind = "async handler, " if about.get("async") else "sync handler, "
        notes = [kind + about["settings"]] if about else []
        shown.add_row(
            entry.name,
            "\n".join(f"{name} {text}" for name, text in about.get("versions", {}).items()),
            *("–" if value is None else number(value) for value in values),
            "\n".join(notes + sorted(set(entry.failures))),
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    console.print(shown)
    for item in promises:
        met = "[green]yes[/]" if item["met"] else "[red]NO[/]"
        console.print(
            f"{item['promise']}: {met}, {number(item['ours'])} against {number(item['theirs'])} "
            f"of {item['best']} ({item['ratio']:.2f} ×)",
            highlight=False,
        )
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores · {machine['redis']}, appendonly no · "
        f"{machine['python']} · load before {machine['load_before']} · {machine['at']}",
        highlight=False,
    )


def _write(
    path: Path, entries: list[Entry], promises: list[dict[str, Any]], machine: dict[str, Any]
) -> None:
    rows = [
        {"name": entry.name, **entry.about, "samples": entry.samples, "failures": entry.failures}
        for entry in entries
    ]
    content = {"machine": machine, "promises": promises, "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
