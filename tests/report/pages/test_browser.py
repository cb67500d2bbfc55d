"""The page of a report in a real browser, which has no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from tests.report.pages.runs import HOSTILE, a_report, a_run
from tests.servers.browser import launched, required_browser

from taskyard.report.page import as_html
from taskyard.report.report import Report, make_report

SCHEMES = ("light", "dark")
CHARTS = ("throughput", "latency", "percentiles", "concurrency", "lateness")

# Every piece of text that is drawn: its contrast with what is behind it, and its size.
TEXTS = """() => {
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    probe.clearRect(0, 0, 1, 1);
    probe.fillStyle = colour;
    probe.fillRect(0, 0, 1, 1);
    return probe.getImageData(0, 0, 1, 1).data;
  };
  const light = (colour) => {
    const [r, g, b] = [...rgb(colour)].map((part) => {
      part /= 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (rgb(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const found = [];
  const add = (kind, element, colour) => found.push({
    kind, text: element.textContent.trim().slice(0, 40),
    size: parseFloat(getComputedStyle(element).fontSize),
    contrast: contrast(colour, behind(element)),
  });
  for (const element of document.body.querySelectorAll("*")) {
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    if (element.matches(".line")) add("line", element, style.stroke);
    else if (element.matches(".bar")) add("line", element, style.fill);
    else if ([...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
      add("text", element, element.tagName === "text" ? style.fill : style.color);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched(required_browser()) as started:
        yield started


class Visit:
    """A page that is open, and what it did meanwhile."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.said: list[str] = []
        self.refused: list[str | None] = []
        page.on("requestfailed", lambda request: self.refused.append(request.failure))
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: self.said.append(dialog.message))


@contextmanager
def visit(browser: Browser, folder: Path, content: str, **options: Any) -> Iterator[Visit]:
    file = folder / "report.html"
    file.write_bytes(content.encode())
    context = browser.new_context(
        offline=True, viewport={"width": options.pop("width", 1280), "height": 900}, **options
    )
    made = Visit(context.new_page())
    try:
        made.page.goto(file.as_uri())
        made.asked.remove(file.as_uri())
        yield made
    finally:
        context.close()


@pytest.fixture(scope="module")
def content() -> str:
    return as_html(a_report())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_asks_for_nothing_and_complains_of_nothing(
    browser: Browser, tmp_path: Path, content: str, scheme: Any
) -> None:
    with visit(browser, tmp_path, content, color_scheme=scheme) as seen:
        seen.page.hover("[data-chart=latency] .plot")
        assert (seen.asked, seen.said) == ([], [])
        back = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert back == ("rgb(244, 246, 248)" if scheme == "light" else "rgb(16, 21, 27)")


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("width", [1280, 360])
def test_charts_are_drawn(
    browser: Browser, tmp_path: Path, content: str, width: int, scripts: bool
) -> None:
    options = {"width": width, "java_script_enabled": scripts}
    with visit(browser, tmp_path, content, **options) as seen:
        for name in CHARTS:
            plot = seen.page.locator(f"[data-chart={name}] .plot")
            box = plot.bounding_box()
            assert box is not None
            assert box["width"] > 200
            assert box["height"] > 200
            # What stands for the numbers fills a good part of that.
            boxes = plot.locator("svg svg path").evaluate_all(
                "paths => paths.map(path => path.getBoundingClientRect().toJSON())"
            )
            assert max(drawn["width"] for drawn in boxes) > 0.9 * box["width"]
            assert max(drawn["height"] for drawn in boxes) > 0.3 * box["height"]
            for drawn in boxes:
                assert drawn["left"] >= box["x"] - 1
                assert drawn["right"] <= box["x"] + box["width"] + 1


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_is_legible(
    browser: Browser, tmp_path: Path, content: str, scheme: Any, width: int
) -> None:
    with visit(browser, tmp_path, content, color_scheme=scheme, width=width) as seen:
        seen.page.locator("summary").click()
        seen.page.hover("[data-chart=throughput] .plot")
        found = seen.page.evaluate(TEXTS)
        texts = [entry for entry in found if entry["kind"] == "text"]
        assert len(texts) > 200
        assert [entry for entry in texts if entry["contrast"] < 4.5 or entry["size"] < 12] == []
        lines = [entry for entry in found if entry["kind"] == "line"]
        assert len(lines) > 15
        assert [entry for entry in lines if entry["contrast"] < 3] == []


def test_a_phone_does_not_scroll_sideways(browser: Browser, tmp_path: Path, content: str) -> None:
    with visit(browser, tmp_path, content, width=320) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth") == 320


def test_labels_below_a_chart_do_not_touch(browser: Browser, tmp_path: Path, content: str) -> None:
    for width in (1280, 360):
        with visit(browser, tmp_path, content, width=width) as seen:
            for name in CHARTS:
                boxes = seen.page.locator(f"[data-chart={name}] .plot text").evaluate_all(
                    "all => all.map(text => text.getBoundingClientRect().toJSON())"
                )
                shown = sorted((box["left"], box["right"]) for box in boxes if box["width"])
                assert len(shown) >= 2
                for (_, end), (begin, _) in pairwise(shown):
                    assert end < begin


def test_values_show_under_the_pointer(browser: Browser, tmp_path: Path, content: str) -> None:
    with visit(browser, tmp_path, content) as seen:
        for name in CHARTS:
            chart = seen.page.locator(f"[data-chart={name}]")
            tip = chart.locator(".tip")
            assert not tip.is_visible()
            chart.locator(".plot").hover(position={"x": 100, "y": 100})
            first = tip.inner_text()
            assert tip.is_visible()
            names = chart.locator(".legend li").all_inner_texts()
            assert all(label.strip() in first for label in names)
            chart.locator(".plot").hover(position={"x": 300, "y": 100})
            assert tip.inner_text() != first
            box, inside = tip.bounding_box(), chart.bounding_box()
            assert box is not None
            assert inside is not None
            assert box["x"] >= inside["x"]
            assert box["x"] + box["width"] <= inside["x"] + inside["width"]
        seen.page.mouse.move(5, 5)
        assert seen.page.locator(".tip:visible").count() == 0
        assert seen.said == []


def test_values_show_by_keyboard(browser: Browser, tmp_path: Path, content: str) -> None:
    with visit(browser, tmp_path, content) as seen:
        plot = seen.page.locator("[data-chart=throughput] .plot")
        plot.focus()
        seen.page.keyboard.press("Home")
        assert "0 s – 1 s" in plot.locator(".tip").inner_text()
        seen.page.keyboard.press("ArrowRight")
        assert "1 s – 2 s" in plot.locator(".tip").inner_text()
        seen.page.keyboard.press("Escape")
        assert not plot.locator(".tip").is_visible()


def test_what_comes_from_outside_is_text(browser: Browser, tmp_path: Path) -> None:
    with visit(browser, tmp_path, as_html(a_hostile_report())) as seen:
        assert (seen.asked, seen.said) == ([], [])
        assert seen.page.title().startswith("</script><script>")
        assert seen.page.locator("img").count() == 0
        assert seen.page.locator("script").count() == 2
        assert "onerror=alert(1)" in seen.page.locator(".errors").inner_text()
        assert "onerror=alert(1)" in seen.page.locator(".warnings").inner_text()


def test_what_got_in_all_the_same_is_not_run(
    browser: Browser, tmp_path: Path, content: str
) -> None:
    intruder = '<script>taken = 1</script><img src="http://127.0.0.1:9/seen" onerror="taken = 2">'
    with visit(browser, tmp_path, content.replace("<main>", f"<main>{intruder}")) as seen:
        assert seen.page.evaluate("typeof taken") == "undefined"
        assert seen.asked == ["http://127.0.0.1:9/seen"]  # it would have been asked for, but
        assert seen.refused == ["csp"]
        assert len(seen.said) == 3


def test_it_can_be_printed(browser: Browser, tmp_path: Path, content: str) -> None:
    with visit(browser, tmp_path, content, color_scheme="dark") as seen:
        seen.page.emulate_media(media="print", color_scheme="dark")
        found = seen.page.evaluate(TEXTS)
        assert [entry for entry in found if entry["contrast"] < 3] == []
        assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        assert seen.page.pdf().startswith(b"%PDF")


def test_a_page_without_calls_opens_too(browser: Browser, tmp_path: Path) -> None:
    with visit(browser, tmp_path, as_html(make_report(a_run(rate=0)))) as seen:
        assert (seen.asked, seen.said) == ([], [])
        assert seen.page.locator("figure").count() == 0
        assert "0 % of 0 calls" in seen.page.inner_text(".tiles")


def a_hostile_report() -> Report:
    run = a_run(duration=10)
    conditions = run.conditions
    conditions.title = conditions.function = conditions.plan = conditions.kind = HOSTILE
    run.kinds = dict.fromkeys(run.kinds, HOSTILE)
    run.messages = dict.fromkeys(run.messages, HOSTILE)
    run.notes.append(HOSTILE)
    return make_report(run)
