"""Runs to make reports of: the same ones every time."""

from __future__ import annotations

import heapq
import random
from array import array

from taskyard.report.report import Report, make_report
from taskyard.report.samples import Conditions, Samples

__all__ = ["HOSTILE", "START", "a_report", "a_run"]

START = 1_795_000_000.0

HOSTILE = (
    '</script><script>document.title="taken"</script><img src=x onerror=alert(1)>\x00\ud800"\'&'
)
"""What nobody should be able to put into a page by failing with it."""


def a_run(
    *, rate: float = 100.0, duration: float = 60.0, open_loop: bool = True, workers: int = 32
) -> Samples:
    """Calls at a constant rate of something that stands still twice, and fails now and then."""
    dice = random.Random(7)
    stalls = [(duration * 0.35, duration * 0.01), (duration * 0.75, duration * 0.02)]
    free = [0.0] * workers
    samples = Samples(planned=array("d"), started=array("d"), ended=array("d"))
    limited = 0
    for index in range(round(rate * duration)):
        planned, idle = index / rate, heapq.heappop(free)
        limited += idle > planned
        started = max(planned, idle) + dice.expovariate(1 / 0.0002)
        ended = started + 0.008 + dice.lognormvariate(-5.5, 0.7)
        for begin, length in stalls:
            if begin <= started < begin + length:
                ended += begin + length - started
        heapq.heappush(free, ended)
        success = dice.random() > (0.25 if ended - started > 0.1 else 0.004)
        samples.planned.append(START + (planned if open_loop else started))
        samples.started.append(START + started)
        samples.ended.append(START + ended)
        samples.success.append(success)
        if not success:
            kind = dice.choice(["HTTP 503", "HTTP 503", "HTTP 503", "TimeoutError"])
            samples.kinds[index] = kind
            samples.messages[index] = f"{kind}: no answer from checkout"
    samples.conditions = Conditions(
        title="Checkout",
        function="shop:checkout",
        kind="threads",
        workers=workers,
        plan=f"{rate:g}/s for {duration:g} s" if open_loop else "",
        open_loop=open_loop,
        limited=limited if open_loop else 0,
    )
    samples.notes.append(f"{limited} calls began late, because all {workers} workers were busy.")
    return samples


def a_report(**wanted: float) -> Report:
    """The report of `a_run`, with its arguments."""
    return make_report(a_run(**wanted))  # type: ignore[arg-type]
