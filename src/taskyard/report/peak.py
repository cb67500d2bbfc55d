"""The best window of a run: exactly, of all windows that there are.

Which window of at least `window` seconds has the most calls inside it, for its length? It is either
exactly that long, or begins where a call begins and ends where one ends: else it could be shorter.

- Those of exactly that length are looked through with two pointers.
- Of the longer ones, we ask again and again: is there one that beats `rate`, the best so far? That
  is, one whose `count - rate * length` is above 0 (Dinkelbach's method: each answer is a better
  rate, and a handful of them is enough). A question is answered in one pass over the calls in the
  order of their ends: see `_better`.

All in all, that is as much work as sorting the calls.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, compress, islice, pairwise, repeat
from math import inf
from operator import attrgetter, ge, gt, le, ne
from statistics import fmean
from typing import Any, NamedTuple

import msgspec

__all__ = ["Peak", "find_peak"]

_MANY = 100_000
"""Of more calls than that, a first guess is made of some of them."""

_STRIDE = 10
"""Of how many calls one is looked at for that."""

_LONGER = 4.0
"""By what factor windows are tried that are longer."""

_BLOCK = 4
"""How many calls are looked at as one, at least, when we look for quiet times..."""

_BLOCKS = 64
"""... where the best window holds so many of these blocks, or fewer."""


_rate = attrgetter("rate")


class Peak(msgspec.Struct):
    """The window with the most successes for its length.

    Attributes:
        tps: successes per second: `count` over `duration`.
        started: when the window begins, as unix seconds.
        ended: when it ends.
        duration: its length in seconds; at least `window`.
        count: how many successes both began and ended inside it.
        window: the length that it had to have at least.
    """

    tps: float
    started: float
    ended: float
    duration: float
    count: int
    window: float


class _Found(NamedTuple):
    """A window: how many calls are in it, when it begins and ends, and how long it is."""

    calls: int
    begin: float
    end: float
    length: float

    @property
    def rate(self) -> float:
        return self.calls / self.length


def find_peak(started: Sequence[float], ended: Sequence[float], window: float = 1.0) -> Peak | None:
    """Find the window, of at least some length, with the most successes for its length.

    Arguments:
        started: when each success began.
        ended: when it ended; not before it began.
        window: the least length in seconds; more than 0.

    Returns:
        The peak; None: nothing succeeded.
    """
    if not started:
        return None
    begins, ends = array("d", started), array("d", ended)
    if not all(map(le, ends, islice(ends, 1, None))):
        order = sorted(range(len(ends)), key=ends.__getitem__)
        begins, ends = (array("d", map(column.__getitem__, order)) for column in (begins, ends))
        del order
    best = _best(begins, ends, window)
    return Peak(best.rate, best.begin, best.end, best.length, best.calls, window)


def _best(begins: array[float], ends: array[float], window: float) -> _Found:
    """The best window of the calls with these begins and ends, in the order of the ends."""
    first, last = min(begins), ends[-1]
    whole = _Found(len(ends), first, max(last, first + window), max(last - first, window))
    best = max(whole, _of_exactly(window, begins, ends), key=_rate)
    if len(ends) > _MANY:  # what is best for a few of them is nearly the best
        few = _best(begins[::_STRIDE], ends[::_STRIDE], window)
        best = max(best, _counted(few, begins, ends), key=_rate)
    else:
        best = max(chain([best], _longer(begins, ends, window)), key=_rate)
    best = _improved(best, *_around(best, begins, ends), window)
    return _improved(best, *_promising(best.rate, begins, ends, window), window)


def _improved(best: _Found, begins: array[float], ends: array[float], window: float) -> _Found:
    """The best window of these calls, if it is better than the best so far."""
    while ends and (found := _better(best, begins, ends, window)) is not None:
        best = found
    return best


def _around(
    best: _Found, begins: array[float], ends: array[float]
) -> tuple[array[float], array[float]]:
    """The calls near a window: a little longer or shorter, it may be better still."""
    bounds = best.begin - best.length, best.end + best.length
    near = _inside([bounds], begins, ends)
    # Where these are nearly all, to look at all of them is enough.
    return near if len(near[0]) < len(ends) / 2 else (array("d"), array("d"))


def _inside(
    bounds: Iterable[tuple[float, float]], begins: array[float], ends: array[float]
) -> tuple[array[float], array[float]]:
    """The calls inside some windows, which rise and do not overlap."""
    chosen = array("d"), array("d")
    for begin, end in bounds:
        part = slice(bisect_left(ends, begin), bisect_right(ends, end))
        inside = list(map(begin.__le__, begins[part]))
        chosen[0].extend(compress(begins[part], inside))
        chosen[1].extend(compress(ends[part], inside))
    return chosen


def _counted(found: _Found, begins: array[float], ends: array[float]) -> _Found:
    """A window with the calls inside it counted anew."""
    return found._replace(calls=len(_inside([(found.begin, found.end)], begins, ends)[0]))


def _promising(
    rate: float, begins: array[float], ends: array[float], window: float
) -> tuple[array[float], array[float]]:
    """The calls that may be in a window that beats `rate`: where a run is uneven, few of them.

    In such a window more calls begin than `rate` times its length. To each instant belongs a
    `surplus`: the calls that began so far, less `rate` times the time so far. It is higher at the
    end of the window than before its begin. The begins are looked at in blocks of a few: `high` is
    the most that the surplus can be in one, `low` the least that it can be before a begin in it.
    """
    starts = array("d", sorted(begins))
    block = max(_BLOCK, int(rate * window / _BLOCKS))
    firsts = starts[::block]
    nexts = [*firsts[1:], ends[-1]]
    origin = starts[0]
    high = [(at + 1) * block - rate * (first - origin) for at, first in enumerate(firsts)]
    low = [at * block - rate * (after - origin) for at, after in enumerate(nexts)]
    later = [*accumulate(reversed(high), max)][::-1]
    earlier = [*accumulate(low, min)]
    # Whether a better window can begin in a block, and whether one can end in it.
    for at, first in enumerate(firsts):
        if later[bisect_right(firsts, first + window) - 1] <= low[at]:
            low[at] = inf
    for at, after in enumerate(nexts):
        before = bisect_right(firsts, after - window) - 1
        # With none that is long enough ago it would have to begin before the first call.
        if before < 0 or earlier[before] >= high[at]:
            high[at] = -inf
    later = [*accumulate(reversed(high), max)][::-1]
    kept = list(map(gt, later, accumulate(low, min)))
    if all(kept):
        return begins, ends
    changes = map(ne, chain([False], kept), chain(kept, [False]))
    borders = compress(chain(firsts, ends[-1:]), changes)
    return _inside(zip(borders, borders, strict=True), begins, ends)


def _longer(begins: array[float], ends: array[float], window: float) -> Iterator[_Found]:
    """The best windows of some greater lengths: the longer calls are, the more of them they hold.

    It ends with the first that is no better than the one before.
    """
    if fmean(ends) - fmean(begins) < window / _LONGER:
        return
    best = 0.0
    found = _of_exactly(_LONGER * window, begins, ends)
    while found.rate > best:
        yield found
        best = found.rate
        found = _of_exactly(_LONGER * found.length, begins, ends)


def _of_exactly(window: float, begins: array[float], ends: array[float]) -> _Found:
    """The best window of this length; `begins` and `ends` of the calls, in the order of the ends.

    It may end where a call ends. A call is inside all windows that end between its own end and its
    own begin plus `window`: so they are counted as intervals are that overlap.
    """
    leaves = [begin + window for begin in begins]
    fits = list(map(ge, leaves, ends))
    queue = sorted(compress(leaves, fits))
    queue.append(inf)
    inside = most = gone = 0
    at = ends[0]
    for end in compress(ends, fits):
        while queue[gone] < end:
            gone += 1
            inside -= 1
        inside += 1
        if inside > most:
            most, at = inside, end
    # The same calls are in the window that begins with the first of them: its bounds are exact.
    part = slice(bisect_left(ends, at - window), bisect_right(ends, at))
    first = min(
        compress(begins[part], map(at.__le__, leaves[part])),
        default=at - window,
    )
    return _Found(most, first, max(first + window, at), window)


def _better(best: _Found, begins: array[float], ends: array[float], window: float) -> _Found | None:
    """A window that is longer than `window` and better than the best so far; None: there is none.

    To each start belongs the value of the window that begins there and ends now: the calls inside
    it so far, less `rate` times its length. A call that ends adds 1 to its own start and to all
    earlier ones. So the earlier of two starts never loses on the later one: once it has caught up,
    the later one is of no use any more. Those of use have values that rise; we keep the steps
    between them (`step`), of which a call changes only one: that above its own start. The best
    window that ends now begins at the last start of use that is `window` ago (`last`), whose value
    is kept too (`top`).
    """
    rate, edge = best.rate, len(begins)
    # Lists are faster, but of many calls they take too much memory.
    column: Callable[[str, Iterable[Any]], Any] = array if edge > _MANY else _list
    starts = column("d", chain(sorted(begins), [inf]))
    places = column("l", map(bisect_right, repeat(starts), begins))
    steps = (rate * (later - start) for start, later in pairwise(starts))
    step = column("d", chain([0.0], steps))
    following, before = column("l", range(1, edge + 2)), column("l", range(-1, edge))
    # Of each start, itself if it is of use, else a later one from which to go on.
    alive = column("l", range(edge + 1))
    origin, last, top = starts[0], 0, 0.0
    most, found = 0.0, None
    for end, place in zip(ends, places, strict=True):
        above = place
        if last < above:
            top += 1
        while alive[above] != above:
            alive[above] = above = alive[alive[above]]
        rest = step[above] - 1
        while rest <= 0:
            prior, after = before[above], following[above]
            following[prior], before[after], alive[above] = after, prior, after
            if above == last:
                last, top = prior, top - rest
            rest += step[after]
            above = after
        step[above] = rest
        while starts[ahead := following[last]] <= end - window:
            last, top = ahead, top + step[ahead]
        length = end - origin
        if top - rate * length > most and length >= window:
            most, found = top - rate * length, (top, starts[last], end)
    if found is None:
        return None
    top, begin, end = found
    better = _Found(round(top - rate * (begin - origin)), begin, end, end - begin)
    return better if better.rate > rate else None


def _list(_: str, values: Iterable[Any]) -> list[Any]:
    return list(values)
