"""A run as it goes, on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from taskyard.cli.output import console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from taskyard.dispatch.progress import Show, Snapshot

__all__ = ["live_display"]


def live_display() -> Show:
    """What shows snapshots of a run: a display on a terminal, plain lines elsewhere."""
    from taskyard.dispatch.progress import show_line

    return _Display() if console(err=True).is_terminal else show_line()


class _Display:
    """Numbers that are written anew four times a second, on standard error."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(
            console=console(err=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # what goes to a file or a pipe stays its own
        )
        self._begun = False

    def __call__(self, snapshot: Snapshot) -> None:
        if not self._begun:
            self._begun = True
            self._live.start()
        self._live.update(_drawn(snapshot), refresh=True)
        if snapshot.ended:
            self._live.stop()


def _drawn(snapshot: Snapshot) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    counts = snapshot.counts
    grid = Table.grid(padding=(0, 2))
    grid.add_row("calls", _of(snapshot), "rate", f"{snapshot.rate:,.0f}/s")
    grid.add_row("under way", f"{snapshot.in_flight:,}", "p50", _milliseconds(snapshot.p50))
    bad = counts.failed + counts.lost + counts.unknown
    failed = Text(f"{bad:,}", style="red" if bad else "")
    grid.add_row("failed", failed, "p95", _milliseconds(snapshot.p95))
    grid.add_row("time left", _left(snapshot), "p99", _milliseconds(snapshot.p99))
    if snapshot.limited:
        grid.add_row("begun late", f"{snapshot.limited:,}: all workers were busy", "", "")
    total = snapshot.elapsed + snapshot.left if snapshot.left is not None else None
    bar = Table.grid()  # a bar alone does not end its line
    bar.add_row(ProgressBar(total, snapshot.elapsed, width=60, pulse=total is None))
    return Group(bar, grid)


def _of(snapshot: Snapshot) -> str:
    done = f"{snapshot.finished:,}"
    return done if snapshot.total is None else f"{done} of {snapshot.total:,}"


def _left(snapshot: Snapshot) -> str:
    if snapshot.stopping:
        return "ends when these have ended"
    return "-" if snapshot.left is None else f"{snapshot.left:.0f} s"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.1f} ms"
