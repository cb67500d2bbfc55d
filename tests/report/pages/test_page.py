"""The page of a report, without a browser: see test_browser.py for that."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import msgspec
import pytest
from tests.report.pages.runs import HOSTILE, a_report, a_run

from taskyard.report.charts import MOST_POINTS, draw, pieces
from taskyard.report.distribution import Distribution
from taskyard.report.intervals import Interval
from taskyard.report.page import as_html
from taskyard.report.page.markup import Markup, element, text
from taskyard.report.report import ErrorKind, Report, make_report
from taskyard.report.samples import Samples

VOID = {"meta", "link", "img", "br"}


class Outline(HTMLParser):
    """Notes what is not closed, and everything that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "srcset", "action", "data"}:
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name in {"aria-labelledby", "aria-describedby"}:
                self.refers.append(value or "")
            assert name != "style"  # the page's policy does not let it count
            assert not name.startswith("on")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outlined(content: str) -> Outline:
    outline = Outline()
    outline.feed(content)
    outline.close()
    assert outline.open == []
    return outline


def test_the_page_is_whole_and_loads_nothing() -> None:
    outline = outlined(as_html(a_report()))
    assert outline.loads == ["data:,"]
    assert len(set(outline.ids)) == len(outline.ids)
    assert set(outline.refers) <= set(outline.ids)
    assert len(outline.refers) >= 10


@pytest.mark.parametrize("open_loop", [True, False])
def test_lateness_is_shown_where_there_was_a_plan(open_loop: bool) -> None:
    content = as_html(a_report(open_loop=open_loop))
    assert ("Lateness of the generator" in content) == open_loop
    assert ("latency from planned start" in content) == open_loop


def test_warnings_come_before_the_numbers() -> None:
    report = a_report()
    content = as_html(report)
    assert 'class="warnings"' in content
    assert content.index("began late") < content.index('class="tiles"')
    assert 'class="warnings severe"' in as_html(
        msgspec.structs.replace(report, generator_bound=True)
    )
    assert "<section" not in as_html(msgspec.structs.replace(report, warnings=[])).split("<dl")[0]


def test_what_is_known_of_the_conditions_is_shown() -> None:
    content = as_html(a_report(rate=50, workers=1))
    for fact in ("shop:checkout", "1 worker (threads)", "50/s for 60 s", "2026-11-18 11:06:40 UTC"):
        assert fact in content


def test_nothing_gets_out_of_the_points() -> None:
    run = a_run(duration=5)
    run.conditions.title = HOSTILE
    content = as_html(make_report(run))
    (data,) = re.findall(r'<script type="application/json" id="points">(.*?)</script>', content)
    assert set(json.loads(data)) == {
        *("throughput", "latency", "percentiles", "concurrency", "lateness")
    }
    assert "\x00" not in content
    assert content.encode()


@pytest.mark.timeout(300)  # seconds of computing, which a busy machine makes minutes
def test_its_size_is_bounded() -> None:
    report = a_report(duration=10)
    many = [
        Interval(report.started + at, report.started + at + 1, 1, 1, 0, 1, 0.001 * (at % 7), 0.5)
        for at in range(100_000)
    ]
    report = msgspec.structs.replace(
        report,
        intervals=many,
        duration=100_000.0,
        concurrency=[(report.started + at, at % 50) for at in range(100_000)],
        errors=[ErrorKind("K" * 10_000, 1, "x" * 1_000_000) for _ in range(1000)],
        warnings=["w" * 10_000] * 1000,
    )
    content = as_html(report)
    assert len(content) < 400_000
    assert "980 more kinds" in content
    assert "950 more" in content
    outlined(content)


def test_pieces_add_up() -> None:
    report = a_report(rate=50, duration=30)
    fine = make_report(a_run(rate=50, duration=30), interval=0.01)
    assert len(fine.intervals) > 10 * MOST_POINTS
    coarse = pieces(fine)
    assert len(coarse) <= MOST_POINTS
    for name in ("begun", "completed", "failed"):
        total = sum(getattr(piece, name) for piece in coarse)
        assert total == sum(getattr(interval, name) for interval in report.intervals)
    assert max(piece.p99 for piece in coarse) == max(each.p99 for each in fine.intervals)
    assert coarse[0].started == 0
    for before, after in pairwise(coarse):
        assert before.ended == pytest.approx(after.started, abs=1e-6)


def test_a_rest_of_an_interval_is_no_rate() -> None:
    report = a_report(duration=10)
    ends = (1, 2, 3, 3.01)
    intervals = [
        Interval(report.started + begin, report.started + end, 5, 5, 0, 5, 0.1, 0.1)
        for begin, end in pairwise((0, *ends))
    ]
    report = msgspec.structs.replace(report, intervals=intervals)
    assert [piece.completed for piece in pieces(report)] == [5, 5, 10]


def one_call(success: int, seconds: float) -> Samples:
    samples = a_run(rate=1, duration=1)
    samples.planned[0] = samples.started[0] = 1e9
    samples.ended[0] = 1e9 + seconds
    samples.success[0] = success
    return samples


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.5, 1e7])
@pytest.mark.parametrize("success", [0, 1])
@pytest.mark.parametrize("open_loop", [True, False])
def test_one_call_is_a_report_too(success: int, seconds: float, open_loop: bool) -> None:
    samples = one_call(success, seconds)
    samples.conditions.open_loop = open_loop
    report = make_report(samples)
    outlined(as_html(report))
    for chart in draw(report):
        for series in chart.series:
            assert len(series.values) == len(series.texts) == len(chart.places)
        assert chart.across.low < chart.across.high
        assert chart.up.low < chart.up.high


def test_no_call_is_a_report_too() -> None:
    report = make_report(Samples())
    assert draw(report) == []
    outlined(as_html(report))


def test_the_curves_are_those_of_the_distributions() -> None:
    report = a_report()
    chart = next(chart for chart in draw(report) if chart.name == "percentiles")
    latency, service = chart.series
    assert latency.values[-1] == report.latency.max
    assert service.values[-1] == report.service.max
    at_99 = min(range(len(chart.places)), key=lambda at: abs(chart.places[at] - 2))
    assert latency.values[at_99] == pytest.approx(report.latency.percentiles["p99"], rel=0.2)
    assert latency.values == sorted(latency.values)  # type: ignore[type-var]
    assert isinstance(report.latency, Distribution)


def test_markup_escapes_what_is_no_markup() -> None:
    made = element("p", "<b>", Markup("<i>x</i>"), title='"&', hidden=True, id=None)
    assert made == '<p title="&quot;&amp;" hidden>&lt;b&gt;<i>x</i></p>'
    assert text("a\x00b\ud800\x85") == "a\ufffdb\ufffd\ufffd"
    assert text("abcdef", 4) == "abc…"


def test_reports_are_values() -> None:
    report: Report = a_report(duration=5)
    assert as_html(report) == as_html(report)
