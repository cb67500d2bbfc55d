"""What the numbers of a run are worth: whether they speak of what was called, or of the caller."""

from __future__ import annotations

from bisect import bisect_right
from heapq import nlargest
from itertools import islice
from math import fsum, inf
from operator import sub
from typing import NamedTuple

from taskyard.report.distribution import Distribution
from taskyard.report.samples import Calls, Samples
from taskyard.report.text import duration_text

__all__ = ["Verdict", "judge"]

LATE = 0.005
"""Seconds: a call that begins later than planned by more than this is late..."""

LATE_SHARE_OF_SERVICE = 0.1
"""... if that is also more than this share of the time that half of the calls take."""

BOUND = 0.05
"""The generator was the bottleneck if it began more than this share of the calls late."""

BUSY = 0.5
"""... or, in a closed loop, if its workers were busy for less than this share of the time."""

_TAIL = 0.1  # of the p99 of the latency that lateness may make up before we say so
_STALL = 10  # times the median: what a closed loop may have hidden
_FEWEST = 10  # calls beyond a percentile for it to mean much


class Verdict(NamedTuple):
    """Whether the generator was the bottleneck, and what else there is to say."""

    generator_bound: bool
    warnings: list[str]


def judge(
    samples: Samples,
    calls: Calls,
    latency: Distribution,
    service: Distribution,
    lateness: Distribution,
) -> Verdict:
    """Find what whoever reads the numbers of a run must know.

    Arguments:
        samples: the run.
        calls: its calls in the order of their ends.
        latency: from the planned starts.
        service: from the real starts.
        lateness: from the planned to the real starts.
    """
    warnings = [*samples.notes, *_incomplete(samples, calls)]
    if not calls.ended:
        return Verdict(False, [*warnings, "No call has ended: there is nothing to measure."])
    if samples.conditions.open_loop or lateness.count:
        bound, found = _open_loop(samples, calls, latency, service, lateness)
    else:
        bound, found = _closed_loop(samples, calls, service)
    return Verdict(bound, [*found, *warnings, *_thin(latency)])


def _open_loop(
    samples: Samples,
    calls: Calls,
    latency: Distribution,
    service: Distribution,
    lateness: Distribution,
) -> tuple[bool, list[str]]:
    found = []
    count, workers = len(calls.ended), samples.conditions.workers
    late = max(LATE, LATE_SHARE_OF_SERVICE * service.percentiles["p50"])
    idle, busy = _late(samples, calls, late, min(late, service.percentiles["p50"]))
    # A log does not say how many calls found no worker, but which ones were late.
    limited = samples.conditions.limited or busy
    if limited:
        found.append(
            f"The limit of workers was hit: {limited:,} of {count:,} calls began late because no"
            f" worker was free{f' ({workers:,} in all)' if workers else ''}. The plan was not kept:"
            " give it more workers, and read the latency, not the service time."
        )
    bound = idle > BOUND * count
    if bound:
        found.append(
            f"The generator of the load was the bottleneck: {idle:,} of {count:,} calls began more"
            f" than {_ms(late)} late though a worker was idle. The numbers speak of it (its"
            " processor, or the source of the items), not only of what was called."
        )
    tail, share = latency.percentiles["p99"], lateness.percentiles["p99"]
    if not found and share > max(LATE, _TAIL * tail):
        found.append(
            f"The p99 of the latency, {_ms(tail)}, contains lateness of the generator, whose own"
            f" p99 is {_ms(share)}. Compare with the service time."
        )
    return bound, found


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def _late(samples: Samples, calls: Calls, late: float, own: float) -> tuple[int, int]:
    """How many calls began late: though a worker was idle, and because none was.

    Arguments:
        samples: the run.
        calls: its calls.
        late: seconds by which a call is late.
        own: seconds for which a worker was idle, if it was; to hand calls over takes some time.
    """
    workers = samples.conditions.workers
    calls_late = [
        (start, plan)
        for start, plan in zip(calls.started, calls.planned, strict=True)
        if start - plan > late
    ]
    if not workers:  # nobody knows who was idle, but how many were not to blame
        return max(0, len(calls_late) - samples.conditions.limited), 0
    idle = sum(start - max(plan, _free(calls, start, workers)) > own for start, plan in calls_late)
    return idle, len(calls_late) - idle


def _free(calls: Calls, start: float, workers: int) -> float:
    """When there was a worker for the call that began then: the others had earlier ones.

    (Where several workers become free at once, one gets its call after the other.)
    """
    earlier = bisect_right(calls.begins, start) - 1
    return calls.ended[earlier - workers] if earlier >= workers else -inf


def _closed_loop(samples: Samples, calls: Calls, service: Distribution) -> tuple[bool, list[str]]:
    found = []
    workers, count = samples.conditions.workers, service.count
    time = (calls.ended[-1] - calls.begins[0] - _paused(samples, calls)) * workers
    bound = bool(count >= 10 * workers and time and service.mean * count < BUSY * time)
    if bound:
        found.append(
            "The generator of the load was the bottleneck: its workers were busy for"
            f" {service.mean * count / time:.0%} of the time only. The throughput is that of"
            " handing out calls (or of the source of the items), not of what was called."
        )
    median = service.percentiles["p50"]
    if service.max > max(_STALL * median, 2 * LATE):
        waited = "Calls waited for earlier ones (a closed loop), so a stall delayed few of them"
        if not samples.conditions.has_known_loop:
            waited = (
                "The log does not say when calls were to begin. If they waited for earlier ones"
                " (a closed loop), a stall delayed few of them"
            )
        found.append(
            f"{waited}: the longest took {_ms(service.max)}, half of them at most {_ms(median)}."
            " Users who come on their own would meet it more often: plan the calls by a rate to see"
            " what they see."
        )
    return bound, found


def _paused(samples: Samples, calls: Calls) -> float:
    """For how many seconds there was no run: as long as nothing was under way, the longest times.

    (When call number n begins, nothing is under way if n - 1 have ended.)
    """
    gaps = map(sub, islice(calls.begins, 1, None), calls.ended)
    return fsum(gap for gap in nlargest(samples.breaks, gaps) if gap > 0)


def _incomplete(samples: Samples, calls: Calls) -> list[str]:
    found = []
    if samples.conditions.interrupted:
        found.append("The run was interrupted: its plan was not carried out to the end.")
    if samples.breaks:
        found.append(
            f"The log is of {samples.breaks + 1:,} runs, one after the other. The time between them"
            f" ({duration_text(_paused(samples, calls))}) is part of the duration, so the"
            " throughput is lower than what was reached."
        )
    if samples.lost:
        found.append(f"{_number(samples.lost, 'call')} got lost with the process they were in.")
    if samples.unknown:
        found.append(f"Of {_number(samples.unknown, 'call')} nobody knows the end.")
    if samples.invalid:
        found.append(f"{_number(samples.invalid, 'line')} of the log could not be understood.")
    if calls.backwards:
        found.append(
            f"{_number(calls.backwards, 'call')} ended before the begin: the clock was put back."
            " They count as having taken no time."
        )
    return found


def _thin(latency: Distribution) -> list[str]:
    thin = [name for name in latency.percentiles if _beyond(name, latency.count) < _FEWEST]
    if not thin:
        return []
    shown = thin[:1] + ["above"] * (len(thin) > 1)
    return [
        f"With {_number(latency.count, 'call')}, little is known of the {' and '.join(shown)}: so"
        f" few calls take longer."
    ]


def _beyond(name: str, count: int) -> float:
    return (100 - float(name[1:])) / 100 * count + 1e-9
