"""What `verbose` prints, as in the document's demonstration."""

from __future__ import annotations

import os
from datetime import datetime

import click

from taskyard.compat.worker_dispatcher.config import Options

__all__ = ["show_begin", "show_end", "show_options"]

_TYPES = {"threads": "Threading", "processes": "Processing", "hybrid": "Parallel Processing"}


def show_options(options: Options) -> None:
    """Print what is going to be done."""
    pace = options.pace
    lines = [
        "",
        "Worker Dispatcher Configutation:",  # the document's spelling
        f"- Local CPU core: {os.cpu_count()}",
        f"- Tasks Count: {'Unknown' if options.total is None else options.total}",
        f"- Runtime: {'Unlimited' if options.runtime is None else f'{options.runtime} sec'}",
        f"- Dispatch Mode: {'Fixed Workers (Default)' if pace is None else 'Frequency Mode'}",
    ]
    if pace is not None:
        lines += [
            f"  └ Interval Seconds: {pace.interval}",
            f"  └ Accumulated Workers: {pace.growth}",
        ]
    lines += ["- Workers Info:", f"  └ Worker Type: {_TYPES[options.kind]}"]
    if options.kind == "hybrid":
        lines.append(f"  └ Task Queue: {'On' if options.shared else 'Off'}")
        lines.append(f"  └ Number of Processes : {options.processes}")
    adjusted = "" if options.number == options.given else f" (Adjusted from {options.given})"
    lines.append(f"  └ Number of Workers : {options.number}{adjusted}")
    lines.append(f"  └ Max Worker: {options.workers}")
    click.echo("\n".join(lines))


def show_begin(instant: float) -> None:
    """Print when it begins; `instant`: unix seconds."""
    click.echo(f"\n--- Start to dispatch workers at {_local(instant)} ---\n")


def show_end(instant: float, seconds: float, ended: int, open_: int, undispatched: int) -> None:
    """Print how it ended.

    Arguments:
        instant: when, as unix seconds.
        seconds: how long it took.
        ended: how many tasks have a result.
        open_: how many were begun and have none.
        undispatched: how many were never begun.
    """
    click.echo(
        f"\n--- End of worker dispatch at {_local(instant)}---\n\n"
        f"Spend Time: {seconds:.6f} sec\n"
        f"Completed Tasks Count: {ended}\n"
        f"Uncompleted Tasks Count: {open_}\n"
        f"Undispatched Tasks Count: {undispatched}"
    )


def _local(instant: float) -> str:
    return datetime.fromtimestamp(instant).astimezone().isoformat()
