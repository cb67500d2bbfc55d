"""`taskyard compare`: in what two runs differ."""

from __future__ import annotations

import click

from taskyard.cli.reports import as_share, column_option, fail, read_log
from taskyard.errors import ReportError

__all__ = ["compare"]


@click.command(short_help="Say whether a run is worse than another.")
@click.argument("before")
@click.argument("after")
@click.option(
    "--confidence",
    callback=as_share,
    default="95%",
    show_default=True,
    help="How sure the verdicts are to be, all together.",
)
@click.option(
    "--tolerance",
    callback=as_share,
    default="5%",
    show_default=True,
    help="By how much a number may change without a verdict.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@column_option
def compare(
    before: str,
    after: str,
    confidence: float,
    tolerance: float,
    as_json: bool,
    columns: dict[str, str],
) -> None:
    """Say in what two runs differ: throughput, share of errors, latency.

    BEFORE and AFTER are logs, as `taskyard report` reads them. Each difference has its confidence
    interval, which allows for calls that follow each other being alike. It tells these two runs
    apart; whether the reason is what you changed, only runs that alternate can tell.

    \b
    Examples:
      taskyard compare before.jsonl after.jsonl --tolerance 10%

    Exit code 3 if anything is worse.
    """
    from taskyard.report import compare as compared

    runs = [read_log(name, columns) for name in (before, after)]
    for name, run in zip((before, after), runs, strict=True):
        if not len(run):  # nothing is worse than this, and no interval shows it
            raise ReportError(f"in {name} no call has ended: there is nothing to compare")
    found = compared(*runs, confidence=confidence, tolerance=tolerance)
    click.echo(found.json() if as_json else found.text(), nl=as_json)
    if found.worse:
        fail()
