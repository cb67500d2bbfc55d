"""`get_tps()`: the numbers of the core's reports, in the document's dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import click

from taskyard.compat.worker_dispatcher.last import get_logs
from taskyard.errors import PolicyError
from taskyard.policy import seconds
from taskyard.report.reading import succeeded
from taskyard.report.samples import Samples
from taskyard.report.tps import Extent, Tps, TpsTable

__all__ = ["get_tps", "result_is_success"]

KEYS = ("started_at", "ended_at", "result")
"""What a log has to have."""
MOST_INTERVALS = 100_000
"""Intervals of a report, at most."""


def result_is_success(result: Any) -> bool:
    """Whether a result counts as a success: it is true, and no response with a code but 200."""
    return succeeded(result)


def get_tps(
    logs: list[dict[str, Any]] | None = None,
    display_intervals: bool = False,
    interval: float = 0,
    reverse_interval: bool = False,
    use_processing: bool = False,  # noqa: ARG001 - there is nothing to speed up
    verbose: bool = False,
    debug: bool = False,
) -> dict[str, Any] | Literal[False]:
    """Say how many tasks succeeded per second, all in all and at the best.

    Arguments:
        logs: as `get_logs()` has them; None: those of the last `start()`.
        display_intervals: add the numbers of each interval, as `intervals`.
        interval: seconds of an interval; 0: it is chosen.
        reverse_interval: count intervals from the end.
        use_processing: not needed here.
        verbose: print what is done.
        debug: print what is found on the way, too.

    Returns:
        `tps`, `started_at`, `ended_at`, `duration`, `metrics`, `count`, and `peak`, which is empty
        when no time of a second or more was better than the whole. False: these are no logs.

    Raises:
        PolicyError: the interval is no number of seconds, or too short for so long a time.
    """
    interval = seconds("interval", interval)
    found: Any = logs or get_logs()
    if not isinstance(found, list):
        return False
    tell = _teller(verbose or debug)
    tell_more = _teller(debug)
    tell("--- Start calculating the TPS data ---")
    samples = _samples(found)
    table = TpsTable(samples)
    whole: Tps = table.whole
    tell_more(
        f"  - Average TPS: {whole.tps}, Total Duration: {whole.duration}s, "
        f"Success Count: {whole.success}"
    )
    report = _piece(whole)
    report["count"]["invalidity"] = len(found) - whole.total
    rows = _intervals(table, whole, interval, reverse=reverse_interval, tell=tell, more=tell_more)
    report["peak"] = _peak(table, whole, tell, tell_more)
    if display_intervals:
        report["intervals"] = rows
    return report


def _samples(logs: list[Any]) -> Samples:
    """The calls of logs. Many are taken over by columns, unless one is no log."""
    try:
        return Samples.from_columns(
            [log["started_at"] for log in logs],
            [log["ended_at"] for log in logs],
            [log["result"] is True or succeeded(log["result"]) for log in logs],
        )
    except (KeyError, TypeError, ValueError):
        return Samples.from_logs(
            log for log in logs if isinstance(log, dict) and all(key in log for key in KEYS)
        )


def _intervals(
    table: TpsTable,
    whole: Tps,
    interval: float,
    *,
    reverse: bool,
    tell: Callable[[str], None],
    more: Callable[[str], None],
) -> list[dict[str, Any]]:
    if not whole.success:
        tell("--- No successful task to compile intervals ---")
        return []
    length = interval or table.interval()
    if whole.duration / length > MOST_INTERVALS:
        raise PolicyError(
            f"an interval of {length:g} s cuts {whole.duration:g} s into more than "
            f"{MOST_INTERVALS:,} pieces: give a longer one, or 0 to have it chosen"
        )
    tell(f"--- Start to compile intervals with an interval of {length} seconds ---")
    pieces = table.intervals(length, reverse=reverse)
    for piece in pieces:
        more(
            f"  - Interval - Start Time: {piece.started}, End Time: {piece.ended}, "
            f"TPS: {_rounded(piece)}"
        )
    return [_piece(piece) for piece in pieces]


def _peak(
    table: TpsTable, whole: Tps, tell: Callable[[str], None], more: Callable[[str], None]
) -> dict[str, Any]:
    tell("--- Start to find the peak TPS ---")
    more(f"  - Looking at all times of a second or more for a TPS above {whole.tps}")
    peak = table.peak()
    if peak is None:
        return {}
    more(
        f"    * Peak detected above the current TPS threshold - TPS: {peak.tps}, "
        f"Started at: {peak.started}, Ended at: {peak.ended}"
    )
    return _piece(peak)


def _piece(piece: Tps) -> dict[str, Any]:
    return {
        "tps": _rounded(piece),
        "started_at": piece.started,
        "ended_at": piece.ended,
        "duration": piece.duration,
        "metrics": {
            "execution_time": _extent(piece.execution_time),
            "success_execution_time": _extent(piece.success_execution_time),
        },
        "count": {
            "success": piece.success,
            "total": piece.total,
            "start": piece.start,
            "end": piece.end,
        },
    }


def _rounded(piece: Tps) -> float:
    return round(piece.tps, 2)


def _extent(extent: Extent) -> dict[str, float]:
    return {"avg": extent.avg, "max": extent.max, "min": extent.min}


def _teller(speaks: bool) -> Callable[[str], None]:
    return click.echo if speaks else _silent


def _silent(_: str) -> None:
    """Say nothing."""
