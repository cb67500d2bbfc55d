"""What commands that make reports share: the files they write, and the thresholds they check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from taskyard.cli.output import printable
from taskyard.errors import ReportError

if TYPE_CHECKING:
    from taskyard.report import Report, Samples, Threshold

__all__ = [
    "BROKEN",
    "as_share",
    "check",
    "column_option",
    "fail",
    "fail_if_option",
    "file_options",
    "read_log",
    "show",
    "write_files",
]

F = TypeVar("F", bound=Callable[..., Any])

BROKEN = 3
"""The exit code if the numbers are not good enough."""

_FILES = {
    "html": "A page of its own, with charts.",
    "xlsx": "A workbook: summary, intervals, and the calls.",
    "png": "A picture.",
    "csv": "The intervals.",
}


def file_options(command: F) -> F:
    """Add `--html`, `--xlsx`, `--png` and `--csv`: where the report is written to.

    The command gets them as `html`, `xlsx`, `png` and `csv`, for `write_files`.
    """
    for ending, about in reversed(_FILES.items()):
        command = click.option(
            f"--{ending}",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help=f"{about} Its name ends in .{ending}.",
            callback=_ends_in,
        )(command)
    return command


def _ends_in(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    del ctx
    if path is None:
        return None
    ending = f".{parameter.name}"
    if path.suffix.lower() != ending:
        raise click.BadParameter(f"{str(path)!r} does not end in {ending}")
    from taskyard.report.files import check_writable

    check_writable(path)  # now, not when the run that it is about has ended
    return path


def show(report: Report, *, as_json: bool) -> None:
    """Print a report, with its heading and its warnings in colour on a terminal."""
    if as_json:
        click.echo(report.json())
        return
    heading, newline, rest = printable(report.text(), lines=True).partition("\n")
    warnings = ""
    if report.warnings:
        rest, blank, warnings = rest.rpartition("\n\n")
        rest += blank
    colour = "red" if report.generator_bound else "yellow"
    heading, warnings = click.style(heading, bold=True), click.style(warnings, fg=colour)
    click.echo(f"{heading}{newline}{rest}{warnings}", nl=False)


def write_files(report: Report, samples: Samples, paths: Iterable[Path | None]) -> None:
    """Write a report to files, and say so on stderr."""
    for path in paths:
        if path is not None:
            report.save(path, samples)
            click.echo(f"wrote {printable(str(path))}", err=True)


def fail_if_option(command: F) -> F:
    """Add `--fail-if`, any number of times; the command gets `thresholds`, for `check`."""
    return click.option(
        "--fail-if",
        "thresholds",
        multiple=True,
        callback=_as_thresholds,
        metavar="CONDITION",
        help=f"Exit with code {BROKEN} if this is so, as in 'p99 > 250ms'; may be repeated.",
    )(command)


def _as_thresholds(
    ctx: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[Threshold, ...]:
    if not texts:
        return ()
    from taskyard.report import Threshold

    try:
        return tuple(map(Threshold.parse, texts))
    except ReportError as error:
        raise click.BadParameter(str(error), ctx, parameter) from error


def check(report: Report, thresholds: Iterable[Threshold]) -> None:
    """End the command with its exit code if a report is not good enough; says why on stderr."""
    from taskyard.report import broken

    found = broken(report, thresholds)
    for text in found:
        click.echo(f"Failed: {text}", err=True)
    if found:
        fail()


def fail() -> NoReturn:
    """End the command: the numbers are not good enough."""
    raise click.exceptions.Exit(BROKEN)


def as_share(ctx: click.Context, parameter: click.Parameter, text: str) -> float:
    """A callback of options that are a share: `5%` or `0.05`."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        problem = f"{text!r} is no share, as in 5% or 0.05"
        raise click.BadParameter(problem, ctx, parameter) from None


def _as_columns(
    ctx: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    columns = {}
    for text in texts:
        meaning, equals, column = text.partition("=")
        if not equals:
            raise click.BadParameter(
                f"{text!r} is not of the form MEANING=COLUMN[:UNIT], as in duration=took:ms",
                ctx,
                parameter,
            )
        columns[meaning] = column
    return columns


def column_option(command: F) -> F:
    """Add `--column`, any number of times; the command gets `columns`, for `read_log`."""
    return click.option(
        "--column",
        "columns",
        multiple=True,
        callback=_as_columns,
        metavar="MEANING=COLUMN[:UNIT]",
        help="What a column of another tool's log means, as in duration=took:ms, where the guess"
        " is wrong; may be repeated.",
    )(command)


def read_log(name: str, columns: Mapping[str, str]) -> Samples:
    """Read the calls from a log.

    Arguments:
        name: the file; "-": standard input.
        columns: what columns mean.

    Raises:
        ReportError: it cannot be read.
    """
    from taskyard.report import read_samples

    return read_samples("/dev/stdin" if name == "-" else name, columns=columns)
