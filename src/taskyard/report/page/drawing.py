"""Charts as SVG that fits any width: only the lines are stretched, text and marks are not.

What is inside the plot stands in an inner picture that is 1000 wide and stretched to what there is;
everything else is placed by per cent.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from taskyard.report.charts import Chart, Series
from taskyard.report.page.markup import Markup, element
from taskyard.report.scales import Axis

__all__ = ["figure", "points"]

_WIDE, _HIGH = 1000, 200
_ABOVE, _BELOW = 10, 26
_SCALE = 62
"""Pixels for what is written beside the axis at the left."""


def figure(chart: Chart) -> Markup:
    """A chart with its heading and legend."""
    height = _ABOVE + _HIGH + _BELOW
    head, about = f"{chart.name}-title", f"{chart.name}-about"
    return element(
        "figure",
        element(
            "figcaption",
            element("h2", chart.title, id=head),
            element("p", chart.about, id=about),
        ),
        element("ul", *map(_entry, chart.series), class_="legend"),
        element(
            "div",
            element("svg", *_left(chart.up), width=_SCALE, height=height, aria_hidden="true"),
            element(
                "div",
                element("svg", *_inside(chart), width="100%", height=height, aria_hidden="true"),
                element("div", class_="tip", role="status", hidden=True),
                class_="plot",
                role="img",
                aria_labelledby=head,
                aria_describedby=about,
            ),
            class_="frame",
        ),
        class_="chart",
        data_chart=chart.name,
    )


def points(chart: Chart) -> dict[str, Any]:
    """What the script needs to show values: places from 0 to 1, and texts."""
    tops = _tops(chart)
    return {
        "x": [_short(chart.across.at(place)) for place in _centres(chart)],
        "at": chart.captions,
        "series": [
            {
                "name": series.name,
                "look": series.look,
                "y": [None if v is None else _short(chart.up.at(v)) for v in top],
                "text": series.texts,
            }
            for series, top in zip(chart.series, tops, strict=True)
        ],
        "top": _ABOVE,
        "height": _HIGH,
    }


def _short(share: float) -> float:
    return round(share, 4)


def _centres(chart: Chart) -> list[float]:
    if not chart.ends:
        return chart.places
    return [(begin + end) / 2 for begin, end in zip(chart.places, chart.ends, strict=True)]


def _tops(chart: Chart) -> list[list[float | None]]:
    """Where each series is drawn: layers of bars stand on each other."""
    tops: list[list[float | None]] = []
    below = [0.0] * len(chart.places)
    for series in chart.series:
        if series.bars:
            below = [under + (v or 0) for under, v in zip(below, series.values, strict=True)]
            tops.append([*below])
        else:
            tops.append(series.values)
    return tops


# What stands around the plot


def _entry(series: Series) -> Markup:
    if series.bars:
        sample = element("rect", x=2, y=1, width=14, height=10, rx=2, class_=f"bar {series.look}")
    else:
        sample = element("line", x1=0, x2=22, y1=6, y2=6, class_=f"line {series.look}")
    svg = element("svg", sample, width=22, height=12, aria_hidden="true")
    return element("li", svg, element("span", series.name))


def _left(up: Axis) -> list[Markup]:
    return [
        element("text", tick.text, x=_SCALE - 8, y=_y(up.at(tick.value)) + 4, text_anchor="end")
        for tick in up.ticks
    ]


def _inside(chart: Chart) -> list[Markup]:
    shares = (chart.up.at(tick.value) for tick in chart.up.ticks)
    grid = [_rule(share) for share in shares if share > 0] + [_rule(0.0)]
    plot = element(
        "svg",
        *_shapes(chart),
        y=_ABOVE,
        width="100%",
        height=_HIGH,
        viewBox=f"0 0 {_WIDE} {_HIGH}",
        preserveAspectRatio="none",
    )
    marks = [element("line", y1=_ABOVE, y2=_ABOVE + _HIGH, class_="cross", visibility="hidden")]
    marks += (
        element("circle", r=4, class_=f"dot {series.look}", visibility="hidden")
        for series in chart.series
    )
    return [*grid, *_below(chart.across), plot, *marks]


def _rule(share: float) -> Markup:
    # Half a pixel down: a line one pixel wide is sharp then.
    y = round(_y(share)) + 0.5
    return element("line", x1=0, x2="100%", y1=y, y2=y, class_="base" if share == 0 else "rule")


def _below(across: Axis) -> list[Markup]:
    y = _ABOVE + _HIGH + 18
    return [
        element(
            "text",
            tick.text,
            x=f"{100 * across.at(tick.value):.2f}%",
            y=y,
            text_anchor="middle",
            class_="odd" if index % 2 else None,
        )
        for index, tick in enumerate(across.ticks)
    ]


def _y(share: float) -> float:
    return round(_ABOVE + _HIGH * (1 - share), 1)


# What is in the plot


def _shapes(chart: Chart) -> list[Markup]:
    shapes, below = [], [0.0] * len(chart.places)
    for series, top in zip(chart.series, _tops(chart), strict=True):
        if series.bars:
            tops = [value or 0.0 for value in top]
            shapes.append(element("path", d=_bars(chart, below, tops), class_=f"bar {series.look}"))
            below = tops
            continue
        path = _line(chart, series)
        if series.steps and series.look == "first":
            area = f"{path}V{_HIGH}H{_x(chart, chart.places[0])}Z"
            shapes.append(element("path", d=area, class_=f"area {series.look}"))
        shapes.append(element("path", d=path, class_=f"line {series.look}"))
    return shapes


def _bars(chart: Chart, below: list[float], above: list[float]) -> str:
    drawn = []
    for begin, end, low, high in zip(chart.places, chart.ends, below, above, strict=True):
        if high > low:
            left, right = _x(chart, begin), _x(chart, end)
            gap = min((right - left) * 0.06, 1.5)
            bottom, top = _v(chart, low), _v(chart, high)
            drawn.append(f"M{left + gap:.2f} {bottom}V{top}H{right - gap:.2f}V{bottom}Z")
    return "".join(drawn)


def _line(chart: Chart, series: Series) -> str:
    """Where values are missing the line is broken; one that stands alone is a dot."""
    ends = chart.ends or [*chart.places[1:], chart.across.high]
    known = zip(chart.places, ends, series.values, strict=True)
    drawn = []
    for there, stretch in groupby(known, lambda point: point[2] is not None):
        if there:
            drawn.append(_stretch(chart, list(stretch), steps=series.steps))
    return "".join(drawn)


def _stretch(chart: Chart, stretch: list[tuple[float, float, float | None]], *, steps: bool) -> str:
    spots = [(_x(chart, at), _x(chart, end), _v(chart, v or 0.0)) for at, end, v in stretch]
    left, _, y = spots[0]
    path = f"M{left} {y}"
    if steps:
        return path + "".join(f"V{y}H{end}" for _, end, y in spots)
    return path + ("".join(f"L{x} {y}" for x, _, y in spots[1:]) or "h0")


def _x(chart: Chart, value: float) -> float:
    return round(_WIDE * chart.across.at(value), 2)


def _v(chart: Chart, value: float) -> float:
    return round(_HIGH * (1 - chart.up.at(value)), 2)
