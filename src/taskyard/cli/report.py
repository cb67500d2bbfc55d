"""`taskyard report`: from the log of a run to its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskyard.cli.reports import (
    check,
    column_option,
    fail_if_option,
    file_options,
    read_log,
    show,
    write_files,
)

if TYPE_CHECKING:
    from taskyard.report import Threshold

__all__ = ["report"]

_ABOVE_0 = click.FloatRange(min=0, min_open=True)


@click.command(short_help="Show the numbers of a run from its log.")
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
@file_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as a JSON object.")
@fail_if_option
@click.option("--title", help="What to call the run.")
@click.option("--interval", type=_ABOVE_0, help="Seconds of an interval. By default it is chosen.")
@click.option(
    "--window", type=_ABOVE_0, default=1.0, show_default=True, help="Seconds of the peak at least."
)
@column_option
def report(
    logs: tuple[str, ...],
    as_json: bool,
    thresholds: tuple[Threshold, ...],
    title: str | None,
    interval: float | None,
    window: float,
    columns: dict[str, str],
    **files: Path | None,
) -> None:
    """Show the numbers of a run: throughput, peak, latency, errors.

    LOG is what `taskyard run --log` wrote, or the log of another tool: JSON lines or CSV, of
    JMeter, k6, vegeta, hey, oha or with columns of similar names; also packed by gzip. - is
    standard input. Several are taken together, as of one run.

    Conditions for --fail-if compare, by > >= < <= == or !=, a percentile (p50, p99.9) or mean, max,
    min, stdev of the latency (or of service., lateness., success.); errors, failed, lost,
    undispatched, cancelled, unknown, invalid (calls, or a share with %); throughput, peak;
    concurrency; duration.

    \b
    Examples:
      taskyard report run.jsonl --html out.html
      taskyard report run.jsonl --fail-if 'p99 > 250ms' --fail-if 'errors > 1%'
      taskyard report results.csv --column started=when --column duration=took:ms
      vegeta encode results.bin | taskyard report - --json

    Exit code 3 if a condition of --fail-if is met, or what it is about was not measured.
    """
    from taskyard.report import Samples, make_report

    samples = Samples.merged(read_log(name, columns) for name in logs)
    if title:
        samples.conditions.title = title
    made = make_report(samples, interval=interval, window=window)
    show(made, as_json=as_json)
    write_files(made, samples, files.values())
    check(made, thresholds)
