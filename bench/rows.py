"""A line of the report: a figure, what it is compared with, and what the project promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from bench.measure import Place, Samples, interleaved, ratio, run


@dataclass
class Bench:
    """What a measurement needs.

    Arguments:
        place: where files go.
        quick: fewer messages.
        repeats: rounds.
    """

    place: Place
    quick: bool
    repeats: int

    def count(self, full: int, quick: int) -> int:
        """A number of messages."""
        return quick if self.quick else full

    def alone(self, function: str, **arguments: Any) -> Any:
        """Measure in a fresh process, on a file of its own."""
        with self.place.folder() as folder:
            return run(function, path=str(folder / "yard.db"), **arguments)

    def case(self, function: str, **arguments: Any) -> Callable[[], Any]:
        """The same, later."""
        return partial(self.alone, function, **arguments)

    def rates(self, **cases: Callable[[], Any]) -> dict[str, list[float]]:
        """Measure cases in turn; their rates by round."""
        samples = interleaved(self.repeats, cases)
        _check_bytes(samples)
        return {name: [reply["rate"] for reply in replies] for name, replies in samples.items()}


def _check_bytes(samples: Samples) -> None:
    lengths = {
        reply["bytes"] for replies in samples.values() for reply in replies if "bytes" in reply
    }
    if len(lengths) > 1:
        raise RuntimeError(f"the bodies compared are not equally long: {sorted(lengths)} bytes")


@dataclass
class Row:
    """One figure.

    Arguments:
        name: what it is called with --only, and in the JSON.
        title: what was done.
        value: the median.
        unit: of the value.
        low: the smallest of the repeats.
        high: the largest.
        ratio: the value over that of `base`, taken round by round.
        base: what the ratio compares with.
        least: the value must not be smaller.
        most: the value must not be larger.
        least_ratio: the ratio must not be smaller.
        most_ratio: the ratio must not be larger.
        note: how to read it.
    """

    name: str
    title: str
    value: float
    unit: str = "messages/s"
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    base: str = ""
    least: float | None = None
    most: float | None = None
    least_ratio: float | None = None
    most_ratio: float | None = None
    note: str = ""
    samples: list[float] = field(default_factory=list)

    @property
    def met(self) -> bool | None:
        """Whether every floor is held; None where there is none."""
        scores = [score for _, score in self.scores()]
        return min(scores) >= 1 if scores else None

    def scores(self) -> list[tuple[str, float]]:
        """For each floor its text, and how many times over it is held (1: just so)."""
        share = self.ratio or 0.0
        found = []
        if self.least is not None:
            found.append((f"≥ {number(self.least)}", self.value / self.least))
        if self.most is not None:
            found.append((f"≤ {number(self.most)}", self.most / max(self.value, 1e-9)))
        if self.least_ratio is not None:
            found.append((f"≥ {self.least_ratio:g} ×", share / self.least_ratio))
        if self.most_ratio is not None:
            found.append((f"≤ {self.most_ratio:g} ×", self.most_ratio / max(share, 1e-9)))
        return found

    def as_dict(self) -> dict[str, Any]:
        """For the JSON: without what is not there, rounded to what means something."""
        items = {key: _rounded(value) for key, value in vars(self).items()}
        kept = {key: value for key, value in items.items() if value not in (None, "", [])}
        return {**kept, "met": self.met}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def number(value: float) -> str:
    """A figure as people read it."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def measured(
    name: str,
    title: str,
    samples: Sequence[float],
    against: Sequence[float] | None = None,
    **more: Any,
) -> Row:
    """A row of the repeats of one figure.

    Arguments:
        name: of the row.
        title: of the row.
        samples: the figure, by round.
        against: what it is compared with, by round.
        more: the row's other fields.
    """
    share = None if against is None else ratio(list(samples), list(against))
    return Row(
        name,
        title,
        median(samples),
        low=min(samples),
        high=max(samples),
        ratio=share,
        samples=list(samples),
        **more,
    )
