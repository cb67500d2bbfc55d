"""How a run goes, while it does."""

from __future__ import annotations

import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import chain, islice

import msgspec

from taskyard.dispatch.collector import Recent
from taskyard.dispatch.result import Counts

__all__ = ["Show", "Snapshot", "pulse", "show_line"]

LATELY = 2.0
"""Seconds that the rate and the latencies are of."""
MOST = 5_000
"""Latencies that are looked at."""


class Snapshot(msgspec.Struct, kw_only=True):
    """How a run goes.

    Attributes:
        counts: what has ended how; `undispatched` is what was not begun yet, as far as that is
            known.
        total: how many calls there are to be; None: not known.
        in_flight: how many are under way.
        elapsed: seconds since it began.
        left: seconds until it ends, at most or as far as can be told from the rate; None: nobody
            knows.
        rate: calls that ended per second, lately.
        p50: the median of the latency lately, in seconds, from the planned start; None: none ended.
        p95: 95 % were faster.
        p99: 99 % were faster.
        limited: how many planned calls began late because all workers were busy.
        stopping: whether no more calls are begun.
        ended: whether this is the last one.
    """

    counts: Counts
    total: int | None
    in_flight: int
    elapsed: float
    left: float | None = None
    rate: float = 0.0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    limited: int = 0
    stopping: bool = False
    ended: bool = False

    @property
    def finished(self) -> int:
        """How many have ended."""
        return self.counts.total - self.counts.undispatched


Show = Callable[[Snapshot], object]


def pulse(recent: Iterable[Recent], since: float) -> tuple[float, list[float]]:
    """What ended lately.

    Arguments:
        recent: deliveries, the oldest first.
        since: when the run began.

    Returns:
        Calls that ended per second, and their latencies, the lowest first.
    """
    now = time.monotonic()
    parts = list(recent)
    # What ended before the oldest of them may be forgotten.
    begin = max(since if len(parts) < 2 else parts[0].ended[0], now - LATELY)
    ended = 0
    latencies: list[Iterable[float]] = []
    for part in reversed(parts):
        if part.ended[-1] < begin:
            break
        ended += len(part.ended) - bisect_left(part.ended, begin)
        latencies.append(map(float.__sub__, part.ended, part.planned))
    rate = ended / max(now - begin, 0.001)
    return rate, sorted(islice(chain.from_iterable(latencies), MOST))


def show_line() -> Show:
    """A line on the terminal that is written anew, or one every few seconds elsewhere."""
    return _Line()


class _Line:
    """Writes to standard error."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next = 0.0

    def __call__(self, snapshot: Snapshot) -> None:
        if not self._terminal and not snapshot.ended and snapshot.elapsed < self._next:
            return
        self._next = snapshot.elapsed + 10.0
        text = _text(snapshot)
        if self._terminal:
            text = f"\r{text}\x1b[K" + ("\n" if snapshot.ended else "")
        else:
            text += "\n"
        sys.stderr.write(text)
        sys.stderr.flush()


def _text(snapshot: Snapshot) -> str:
    counts = snapshot.counts
    done = f"{snapshot.finished:,}"
    if snapshot.total is not None:
        done += f" of {snapshot.total:,}"
    parts = [
        f"{snapshot.elapsed:.0f} s: {done} calls",
        f"{snapshot.rate:,.0f}/s",
        f"{snapshot.in_flight:,} under way",
    ]
    bad = counts.failed + counts.lost + counts.unknown
    if bad:
        parts.append(f"{bad:,} failed")
    if snapshot.p50 is not None and snapshot.p99 is not None:
        parts.append(f"p50 {snapshot.p50 * 1e3:.1f} ms, p99 {snapshot.p99 * 1e3:.1f} ms")
    if snapshot.left is not None and not snapshot.ended:
        parts.append(f"{snapshot.left:.0f} s left")
    if snapshot.stopping and not snapshot.ended:
        parts.append("stopping")
    return ", ".join(parts)
