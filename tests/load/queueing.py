"""What a load must see: a queue of which all is known but the load generator.

wrk2's arithmetic is one line: the latency of a request is the instant of its answer less the
instant at which it was *planned* to be sent. What the answers' instants must be at least, follows
from the plan and how long each request was served (Lindley's recursion).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

__all__ = [
    "closed",
    "constant",
    "ends",
    "latencies",
    "recorded_with_expected_interval",
    "stalling",
]


def ends(
    arrivals: Sequence[float],
    services: Iterable[float],
    stalls: Sequence[tuple[float, float]] = (),
) -> list[float]:
    """When requests are answered, which are served one by one in the order in which they come.

    If they really come later than `arrivals`, none of these instants can be undercut: the k-th to
    be served cannot have come before the k-th was planned.

    Arguments:
        arrivals: when they come, rising.
        services: how long each is served; what stands still meanwhile is part of it.
        stalls: from when until when nobody begins to be served, rising.
    """
    found, free = [], float("-inf")
    for arrival, service in zip(arrivals, services, strict=True):
        begin = max(arrival, free)
        for began, ended in stalls:
            if began < begin < ended:
                begin = ended
        free = begin + service
        found.append(free)
    return found


def latencies(arrivals: Sequence[float], services: Iterable[float]) -> list[float]:
    """From when a request was planned until it is answered."""
    return [end - arrival for arrival, end in zip(arrivals, ends(arrivals, services), strict=True)]


def recorded_with_expected_interval(services: Iterable[float], interval: float) -> list[float]:
    """A closed loop corrected as HdrHistogram does: a long call stands for those it kept away."""
    found: list[float] = []
    for service in services:
        found.append(service)
        missing = int(service / interval)
        found += [service - k * interval for k in range(1, missing + 1)]
    return found


def constant(rate: float, number: int) -> list[float]:
    """The plan of so many calls a second."""
    return [k / rate for k in range(number)]


def closed(services: Iterable[float]) -> tuple[list[float], list[float]]:
    """Begin and end of each call of one worker, who waits for the answer before the next one."""
    begins, found, free = [], [], 0.0
    for service in services:
        begins.append(free)
        free += service
        found.append(free)
    return begins, found


def stalling(number: int, service: float, stall: float, every: int) -> list[float]:
    """How long each request is served by a target that stalls with every so-manieth."""
    short = list(repeat(service, number))
    short[every - 1 :: every] = [service + stall] * len(short[every - 1 :: every])
    return short
