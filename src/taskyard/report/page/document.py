"""The page: numbers first, then charts, then tables."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

from taskyard.report.charts import draw, pieces
from taskyard.report.headline import Number, facts, headline, instant_text, workers_text
from taskyard.report.page.drawing import figure, points
from taskyard.report.page.markup import Markup, element, text
from taskyard.report.scales import number_text, share_text, span_text
from taskyard.report.text import duration_text

if TYPE_CHECKING:
    from taskyard.report.report import Report

__all__ = ["as_html"]

_MOST_KINDS = 20
_MOST_WARNINGS = 50
_LONG, _SHORT = 400, 120
"""How much is shown of texts that come from outside."""


def as_html(report: Report) -> str:
    """The report as a page of HTML; it loads nothing and works with scripts switched off."""
    charts = draw(report)
    style, script = _part("style.css"), _part("script.js")
    values = {
        "policy": _policy(style, script),
        "title": text(report.title, _SHORT),
        "style": style,
        "script": script,
        "lead": _lead(report),
        "warnings": _warnings(report),
        "tiles": "".join(map(_tile, headline(report))),
        "charts": "".join(map(figure, charts)) + _errors(report),
        "tables": _durations(report) + _intervals(report) + _conditions(report),
        "points": _inert({chart.name: points(chart) for chart in charts}),
    }
    return Template(_part("page.html")).substitute(values)


@cache
def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """What the page may do: run its own script, use its own style, and nothing else."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(part: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()


def _inert(content: object) -> str:
    """JSON that cannot end the element that it stands in."""
    written = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# Numbers


def _lead(report: Report) -> Markup:
    return Markup(" · ".join(element("bdi", text(fact, _LONG)) for fact in facts(report)))


def _warnings(report: Report) -> Markup:
    warnings = list(report.warnings[:_MOST_WARNINGS])
    if len(report.warnings) > len(warnings):
        warnings.append(f"… and {len(report.warnings) - len(warnings)} more.")
    if not warnings:
        return Markup()
    return element(
        "section",
        element("h2", "Before you trust these numbers", id="warnings-title"),
        element("ul", *(element("li", text(warning, _LONG)) for warning in warnings)),
        class_="warnings severe" if report.generator_bound else "warnings",
        aria_labelledby="warnings-title",
    )


def _tile(number: Number) -> Markup:
    return element(
        "div",
        element("dt", number.label),
        element("dd", element("strong", number.value), element("span", number.about)),
        class_="tile bad" if number.bad else "tile",
    )


# Tables


def _table(caption: str, heads: list[str], rows: list[list[object]], class_: str = "") -> Markup:
    """A table; the first cell of each row is its heading."""
    body = (
        element("tr", element("th", row[0], scope="row"), *(element("td", c) for c in row[1:]))
        for row in rows
    )
    table = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
        element("tbody", *body),
    )
    # What is wider than the screen is scrolled, also by keyboard.
    return element(
        "div", table, class_=f"wide {class_}".strip(), tabindex=0, role="region", aria_label=caption
    )


def _errors(report: Report) -> Markup:
    """A list with bars: how many calls failed in which way, and what one of them said."""
    if not report.errors:
        return Markup()
    shown, rest = report.errors[:_MOST_KINDS], report.errors[_MOST_KINDS:]
    most = max(1, *(error.count for error in shown))
    entries = [_error(error.kind, error.count, most, report, error.example) for error in shown]
    if rest:
        count = sum(error.count for error in rest)
        entries.append(_error(f"{len(rest)} more kinds", count, most, report, ""))
    return element(
        "section",
        element("h2", "Errors by kind", id="errors-title"),
        element("p", "Of the calls that failed, with what the first of them said."),
        element("ul", *entries),
        class_="card errors",
        aria_labelledby="errors-title",
    )


def _error(kind: str, count: int, most: int, report: Report, example: str) -> Markup:
    width = f"{100 * min(1.0, count / most):.2f}%"
    return element(
        "li",
        element("bdi", element("strong", text(kind, _SHORT))),
        element("span", f"{number_text(count)} · {share_text(count, report.failed)}"),
        element(
            "svg",
            element("rect", width=width, height=8, rx=2, class_="bar bad"),
            width="100%",
            height=8,
            aria_hidden="true",
        ),
        element("bdi", text(example, _LONG), class_="example"),
    )


def _durations(report: Report) -> Markup:
    if not report.latency.count:
        return Markup()
    columns = [("Duration", report.latency)]
    if report.conditions.open_loop:
        columns = [("Latency", report.latency), ("Service time", report.service)]
        columns.append(("Lateness", report.lateness))
    rows: list[list[object]] = []
    for label, name in (("mean", "mean"), ("deviation", "stdev"), ("shortest", "min")):
        rows.append([label, *(duration_text(getattr(column, name)) for _, column in columns)])
    for name in report.latency.percentiles:
        found = (column.percentiles.get(name, 0.0) for _, column in columns)
        rows.append([name, *map(duration_text, found)])
    rows.append(["longest", *(duration_text(column.max) for _, column in columns)])
    heads = ["", *(label for label, _ in columns)]
    return element("section", _table("Durations", heads, rows), class_="card")


def _intervals(report: Report) -> Markup:
    run = pieces(report)
    if not run:
        return Markup()
    rows: list[list[object]] = [
        [
            piece.caption,
            *map(number_text, (piece.begun, piece.completed, piece.failed)),
            number_text(piece.rate(piece.completed)),
            number_text(piece.in_flight),
            duration_text(piece.p50),
            duration_text(piece.p99),
        ]
        for piece in run
    ]
    heads = ["Since the start", "Begun", "Completed", "Failed", "Per second", "At once"]
    table = _table("Intervals", [*heads, "p50", "p99"], rows)
    folded = element("details", element("summary", f"The {len(run)} intervals in numbers"), table)
    return element("section", folded, class_="card broad")


def _conditions(report: Report) -> Markup:
    conditions = report.conditions
    loop = "open: calls were planned for instants" if conditions.open_loop else conditions.loop
    facts = [
        ("Function", conditions.function),
        ("Workers", workers_text(report)),
        ("Loop", loop),
        ("Plan", conditions.plan),
        ("First call", instant_text(report.started) if report.is_dated else ""),
        ("Last call ended", instant_text(report.ended) if report.is_dated else ""),
        ("Duration", span_text(report.duration)),
        ("Interval", span_text(report.interval)),
        ("Ended early", "yes" if conditions.interrupted else ""),
        ("Begun late for want of a worker", _count(conditions.limited)),
        ("Cancelled", _count(report.cancelled)),
        ("Never begun", _count(report.undispatched)),
        ("Lost with their process", _count(report.lost)),
        ("Not known how they ended", _count(report.unknown)),
        ("Entries not understood", _count(report.invalid)),
    ]
    entries = (
        element("dt", name) + element("dd", element("bdi", text(value, _LONG)))
        for name, value in facts
        if value
    )
    return element(
        "section",
        element("h2", "Conditions of the run"),
        element("dl", *map(Markup, entries)),
        class_="card conditions",
    )


def _count(number: int) -> str:
    return number_text(number) if number else ""
