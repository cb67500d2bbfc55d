"""A report as one picture: the headline numbers and all charts.

It is drawn by matplotlib's own objects, without pyplot and its global figures, so that threads may
draw at the same time and a program's own plots are left alone.
"""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from taskyard.errors import MissingExtra
from taskyard.report.charts import Chart, Look, Series, draw
from taskyard.report.headline import facts, headline
from taskyard.report.scales import number_text, share_text
from taskyard.report.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from taskyard.report.report import Report

__all__ = ["as_png"]

_TEXT, _SOFT, _RULE, _CARD = "#1b2430", "#536071", "#e6eaef", "#ffffff"
_WARN = "#8a5a00"
_COLOURS: dict[Look, str] = {
    "good": "#4297d0",
    "bad": "#a83200",
    "first": "#0067a8",
    "second": "#c04e00",
    "limit": "#667383",
}
_DASHES: dict[Look, Any] = {"second": (0, (4, 2)), "limit": (0, (1, 2))}
_MOST_KINDS = 8
_MOST_WARNINGS = 6
_WIDTH, _HEAD, _ROW, _LINE = 13.0, 1.75, 2.9, 0.22
"""Inches: of the picture, and of its parts from top to bottom."""


def as_png(report: Report, *, dpi: int = 120) -> bytes:
    """The report as a picture.

    Arguments:
        report: its numbers.
        dpi: pixels per inch; the picture is 13 inches wide.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra(
            "PNG files are drawn by matplotlib: pip install 'taskyard[report]'"
        ) from None
    charts = draw(report)
    panels = len(charts) + bool(report.errors)
    rows = (panels + 1) // 2
    warnings = _warnings(report)
    head = _HEAD + _LINE * len(warnings)
    figure = Figure(figsize=(_WIDTH, head + _ROW * rows), dpi=dpi, facecolor=_CARD)
    FigureCanvasAgg(figure)
    _head(figure, report, warnings)
    if rows:
        height = head + _ROW * rows
        grid = figure.add_gridspec(
            rows,
            2,
            left=0.065,
            right=0.975,
            top=1 - (head + 0.4) / height,
            bottom=0.42 / height,
            hspace=0.42,
            wspace=0.17,
        )
        places = [grid[at // 2, at % 2] for at in range(panels)]
        for chart, place in zip(charts, places, strict=False):
            _panel(figure.add_subplot(place), chart)
        if report.errors:
            _errors(figure.add_subplot(places[-1]), report)
    written = BytesIO()
    figure.savefig(written, format="png", dpi=dpi, metadata={"Software": "taskyard"})
    return written.getvalue()


def _warnings(report: Report) -> list[str]:
    lines = [f"!  {warning}" for warning in report.warnings[:_MOST_WARNINGS]]
    if len(report.warnings) > _MOST_WARNINGS:
        lines.append(f"!  … and {len(report.warnings) - _MOST_WARNINGS} more")
    return [one_line(line, 150) for line in lines]


def _head(figure: Figure, report: Report, warnings: list[str]) -> None:
    height = figure.get_figheight()

    def put(left: float, down: float, text: str, size: float, colour: str, bold: bool) -> None:
        weight = "bold" if bold else "normal"
        where = (left, 1 - down / height)
        _text(figure, *where, text, fontsize=size, color=colour, fontweight=weight, va="top")

    put(0.025, 0.18, one_line(report.title, 90), 17, _TEXT, True)
    lead = " · ".join(facts(report))
    put(0.025, 0.53, one_line(lead, 170), 10, _SOFT, False)
    numbers = headline(report)
    for index, number in enumerate(numbers):
        left = 0.025 + index * 0.95 / len(numbers)
        colour = _COLOURS["bad"] if number.bad else _TEXT
        put(left, 0.9, number.label, 9, _SOFT, False)
        put(left, 1.1, number.value, 15, colour, True)
        put(left, 1.4, number.short, 8, _SOFT, False)
    for index, line in enumerate(warnings):
        put(0.025, _HEAD + _LINE * index, line, 10, _WARN, True)


def _panel(axes: Axes, chart: Chart) -> None:
    _frame(axes, chart.title)
    for setter, label, axis in (
        (axes.set_xticks, axes.set_xticklabels, chart.across),
        (axes.set_yticks, axes.set_yticklabels, chart.up),
    ):
        setter([axis.at(tick.value) for tick in axis.ticks])
        label([tick.text for tick in axis.ticks], fontsize=8.5, color=_SOFT)
    axes.grid(visible=True, axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    below = [0.0] * len(chart.places)
    for series in chart.series:
        if series.bars:
            below = _bars(axes, chart, series, below)
        else:
            _line(axes, chart, series)
    legend = axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.99),
        ncols=len(chart.series),
        frameon=False,
        fontsize=8.5,
        handlelength=2.4,
        borderaxespad=0.3,
    )
    for entry in legend.get_texts():
        entry.set_color(_TEXT)


def _frame(axes: Axes, title: str) -> None:
    axes.set_facecolor(_CARD)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_TEXT, pad=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.tick_params(length=0, pad=5)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color("#9aa6b4")


def _bars(axes: Axes, chart: Chart, series: Series, below: list[float]) -> list[float]:
    above = [under + (value or 0) for under, value in zip(below, series.values, strict=True)]
    lefts = [chart.across.at(place) for place in chart.places]
    rights = [chart.across.at(end) for end in chart.ends]
    bottoms, tops = list(map(chart.up.at, below)), list(map(chart.up.at, above))
    axes.bar(
        lefts,
        [top - bottom for bottom, top in zip(bottoms, tops, strict=True)],
        [0.92 * (right - left) for left, right in zip(lefts, rights, strict=True)],
        bottoms,
        align="edge",
        color=_COLOURS[series.look],
        label=series.name,
        linewidth=0,
    )
    return above


def _line(axes: Axes, chart: Chart, series: Series) -> None:
    x = [chart.across.at(place) for place in chart.places]
    y = [float("nan") if value is None else chart.up.at(value) for value in series.values]
    if series.steps and chart.ends:
        x.append(chart.across.at(chart.ends[-1]))
        y.append(y[-1])
    axes.plot(
        x,
        y,
        color=_COLOURS[series.look],
        linestyle=_DASHES.get(series.look, "solid"),
        linewidth=1.2 if series.look == "limit" else 1.7,
        drawstyle="steps-post" if series.steps else "default",
        marker="o" if len(x) == 1 else None,
        label=series.name,
        clip_on=False,
    )


def _errors(axes: Axes, report: Report) -> None:
    _frame(axes, "Errors by kind")
    axes.set_axis_off()
    shown = report.errors[:_MOST_KINDS]
    most = max(error.count for error in shown) or 1
    for index, error in enumerate(shown):
        y = 0.86 - index * 0.9 / max(4, len(shown))
        axes.barh(y, error.count / most, 0.05, color=_COLOURS["bad"])
        kind = one_line(error.kind, 60)
        _text(axes, 0, y + 0.06, kind, fontsize=9, color=_TEXT)
        count = f"{number_text(error.count)} · {share_text(error.count, report.failed)}"
        _text(axes, 1, y + 0.06, count, fontsize=9, color=_TEXT, ha="right")


# Texts that come from outside


def _text(where: Any, x: float, y: float, content: str, **look: Any) -> None:
    """Write something, a `$` as a `$`, and what the font does not have as a mark."""
    known = _characters()
    drawn = "".join(sign if ord(sign) in known else "\ufffd" for sign in content)
    where.text(x, y, drawn, parse_math=False, **look)


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())
