"""`taskyard run`: a function with many items, paced and measured."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from taskyard.cli.lines import LONGEST, LineTooLong, read_lines
from taskyard.cli.live import live_display
from taskyard.cli.load import load_function
from taskyard.cli.pacing import Duration, pace_of, pace_options
from taskyard.cli.reports import check, fail_if_option, file_options, show, write_files
from taskyard.errors import DispatchError, PayloadError, RunFailed

if TYPE_CHECKING:
    from taskyard.dispatch.result import Run
    from taskyard.report import Threshold

__all__ = ["run"]

ENDED_BY = {"SIGINT": 130, "SIGTERM": 143}
"""The exit codes that shells give for programs that a signal ended."""
KINDS = ("threads", "processes", "hybrid", "async")


class _Wanted(NamedTuple):
    """What a run leaves behind."""

    files: tuple[Path | None, ...]
    as_json: bool
    title: str | None
    thresholds: tuple[Threshold, ...]


@click.command(short_help="Call a function with many items, at a pace, and report.")
@click.argument("function")
@click.option(
    "--items",
    "source",
    type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True),
    metavar="FILE",
    help="Call it with each line of a file, a JSON value; - is standard input.",
)
@click.option("-n", "--number", type=click.IntRange(min=0), help="Call it with 0, 1, 2… up to N-1.")
@click.option("--repeat", is_flag=True, help="Begin again when the --items are over.")
@click.option("-w", "--workers", type=click.IntRange(min=1), help="Calls under way at most.")
@click.option("--kind", type=click.Choice(KINDS), help="What calls are made in.")
@pace_options
@click.option("--duration", type=Duration(), help="Begin no more calls after this time, as 30s.")
@click.option("--timeout", type=Duration(), help="A call that takes longer has failed.")
@click.option(
    "--retries", type=click.IntRange(min=0), default=0, show_default=True, help="Of a failed call."
)
@click.option("--on", metavar="URL", help="Make the calls on a Dask cluster: dask://host:port.")
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write each outcome there, as JSON lines, for `taskyard report` and `compare`.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the run of --log: only what has no outcome there."
)
@file_options
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the report as a JSON object; what the function prints goes to standard error.",
)
@fail_if_option
@click.option("--title", help="What to call the run.")
@click.option("--quiet", is_flag=True, help="Do not show how it goes.")
def run(
    function: str,
    *,
    source: str | None,
    number: int | None,
    repeat: bool,
    workers: int | None,
    kind: Any,
    rate: str | None,
    ramp: str | None,
    steps: str | None,
    trace: Path | None,
    poisson: bool,
    duration: float | None,
    timeout: float | None,
    retries: int,
    on: str | None,
    log: Path | None,
    resume: bool,
    as_json: bool,
    thresholds: tuple[Threshold, ...],
    title: str | None,
    quiet: bool,
    **files: Path | None,
) -> None:
    """Call a function with many items, and report how many calls a second it took, and how long.

    FUNCTION is a builtin, module:function or path/file.py:function. What it raises is a failed
    call. Without a pace, so many --workers call it as fast as they can. With one, calls begin when
    they are due, whether or not earlier ones have ended, and their latency counts from then on.

    \b
    Examples:
      taskyard run tasks:fetch --items urls.jsonl --workers 20
      taskyard run load.py:visit --rate 200 --duration 30s --html report.html
      taskyard run load.py:visit --items users.jsonl --repeat --ramp 10:500:1m --duration 2m
      taskyard run load.py:visit --rate 50 --duration 1m --fail-if 'p99 > 250ms'

    Ctrl-C begins no more calls, and reports when those under way have ended; the second one does
    not wait for them. Exit code 3 if a condition of --fail-if is met (see `taskyard report`).
    """
    from taskyard.dispatch.run import run as run_here

    pace = pace_of(rate, ramp, steps, trace, poisson=poisson)
    items = _items(source, number, repeat=repeat, endless=duration is not None or _ends(pace))
    wanted = _Wanted(tuple(files.values()), as_json, title, thresholds)
    try:
        with _prints_aside() if as_json else nullcontext():
            done = run_here(
                load_function(function),
                items,
                workers=workers,
                kind=kind,
                rate=pace,
                runtime=duration,
                timeout=timeout,
                retries=retries,
                on=on,
                resume=_log(log, resume=resume),
                progress=False if quiet else live_display(),
            )
    except RunFailed as error:
        _report(error.run, wanted._replace(thresholds=()))
        raise DispatchError(error.reason) from error
    _report(done, wanted)
    if done.info.interrupted in ENDED_BY:
        raise click.exceptions.Exit(ENDED_BY[done.info.interrupted])


@contextmanager
def _prints_aside() -> Iterator[None]:
    """Have all that is printed go to standard error, also by processes that start meanwhile."""
    sys.stdout.flush()
    ours = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(ours, 1)
        os.close(ours)


def _report(done: Run, wanted: _Wanted) -> None:
    from taskyard.report import make_report

    samples = done.samples()
    if wanted.title:
        samples.conditions.title = wanted.title
    made = make_report(samples)
    write_files(made, samples, wanted.files)  # first: nobody may read standard output to its end
    show(made, as_json=wanted.as_json)
    check(made, wanted.thresholds)


def _ends(pace: Any) -> bool:
    """Whether a plan ends by itself."""
    return getattr(pace, "total", True) is not None and pace is not None


def _log(log: Path | None, *, resume: bool) -> Path | None:
    if log is None:
        if resume:
            raise click.UsageError("--resume goes on with the run of a --log: say which")
        return None
    if log.exists() and log.stat().st_size and not resume:
        raise click.UsageError(
            f"{log} is there already: --resume goes on with that run; or choose another file"
        )
    return log


# Items


def _items(
    source: str | None, number: int | None, *, repeat: bool, endless: bool
) -> Iterable[Any] | int:
    if source is not None and number is not None:
        raise click.UsageError("--items and --number both say what to call it with: choose one")
    if repeat and source in (None, "-"):
        raise click.UsageError("--repeat is for --items from a file")
    if source is not None:
        return _repeated(source) if repeat else _lines(source)
    if number is not None:
        return number
    if endless:
        return itertools.count()
    raise click.UsageError("say how often: --items FILE, --number N or --duration TIME")


def _repeated(source: str) -> Iterator[Any]:
    while True:
        found = False
        for value in _lines(source):
            found = True
            yield value
        if not found:
            raise PayloadError(f"{source} has no items, so there is nothing to repeat")


def _lines(source: str) -> Iterator[Any]:
    if source == "-":
        yield from _values(sys.stdin.buffer, "standard input")
        return
    try:
        with Path(source).open("rb") as file:
            yield from _values(file, source)
    except OSError as error:
        raise PayloadError(f"the items cannot be read: {error}") from error


def _values(stream: Any, name: str) -> Iterator[Any]:
    at = 0
    try:
        for at, line in enumerate((one for one in read_lines(stream) if one is not None), 1):
            if line.strip():
                yield _value(line, f"{name}, line {at}")
    except LineTooLong as error:
        raise PayloadError(
            f"{name}, line {at + 1} is longer than {LONGEST >> 20} MiB: an item is a JSON value on "
            f"a line of its own"
        ) from error


def _value(line: bytes, place: str) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        shown = json.dumps(line[:40].decode(errors="replace"))
        raise PayloadError(f"{place}: {shown} is no JSON value: {error}") from error
