"""How calls are paced, as options of a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from taskyard.errors import PolicyError

if TYPE_CHECKING:
    from taskyard.dispatch.pace import Pace

__all__ = ["Duration", "pace_of", "pace_options"]

F = TypeVar("F", bound=Callable[..., Any])


class Duration(click.ParamType):  # type: ignore[type-arg] # generic in newer ones only
    """Seconds, or a number with its unit, as in 250ms, 30s, 2m, 1h30m."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        from taskyard.dispatch.notation import parse_duration

        if isinstance(value, float):
            return value
        try:
            return parse_duration(value)
        except PolicyError as error:
            self.fail(str(error), param, ctx)


_OPTIONS = (
    click.option("--rate", metavar="CALLS", help="So many calls a second: 200, or 100/1m."),
    click.option(
        "--ramp",
        metavar="FROM:TO:DURATION",
        help="More and more calls a second, as in 100:5000:30s; then as many as at the end.",
    ),
    click.option(
        "--steps",
        metavar="CALLSxDURATION,…",
        help="So many calls a second for so long, then the next, as in 100x10s,200x1m.",
    ),
    click.option(
        "--trace",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Calls at the instants in a file: one per line, as seconds from the start or unix"
        " time.",
    ),
    click.option(
        "--poisson",
        is_flag=True,
        help="With --rate, --ramp or --steps: at random, as independent users come, and as often"
        " on average.",
    ),
)


def pace_options(command: F) -> F:
    """Add the options that say when calls begin; the command hands them to `pace_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def pace_of(
    rate: str | None, ramp: str | None, steps: str | None, trace: Path | None, *, poisson: bool
) -> Pace | None:
    """The pace that options ask for; None: as soon as a worker is free.

    Raises:
        UsageError: they contradict each other, or one cannot be read.
    """
    from taskyard.dispatch import notation
    from taskyard.dispatch.pace import Poisson

    given = {"--rate": rate, "--ramp": ramp, "--steps": steps, "--trace": trace}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} both say when calls begin: choose one")
    try:
        if trace is not None:
            if poisson:
                raise click.UsageError(
                    "a --trace says when calls begin: --poisson has no part in it"
                )
            return notation.read_trace(trace)
        for text, parse in (
            (rate, notation.parse_rate),
            (ramp, notation.parse_ramp),
            (steps, notation.parse_steps),
        ):
            if text is not None:
                return Poisson(parse(text)) if poisson else parse(text)
    except PolicyError as error:
        raise click.UsageError(f"{chosen[0]}: {error}") from error
    if poisson:
        raise click.UsageError("--poisson needs --rate, --ramp or --steps: how many on average")
    return None
