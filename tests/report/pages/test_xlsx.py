"""Reports as workbooks."""

from __future__ import annotations

import math
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import openpyxl
import pytest
from openpyxl.utils.escape import unescape
from tests.report.pages.runs import START, a_run

from taskyard.errors import MissingExtra
from taskyard.report import xlsx
from taskyard.report.report import Report, make_report
from taskyard.report.samples import Samples
from taskyard.report.xlsx import save_xlsx

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "=cmd|' /C calc'!A0",
    "\t=1",
    "{=1}",
    "http://x.example",
]
"""What a spreadsheet could take for more than text."""


@pytest.fixture
def run() -> Samples:
    return a_run(rate=10, duration=5)


def saved(run: Samples, folder: Path) -> openpyxl.Workbook:
    path = folder / "report.xlsx"
    save_xlsx(make_report(run), path, run)
    return openpyxl.load_workbook(path)


def rows(sheet: Any) -> list[tuple[Any, ...]]:
    return list(sheet.iter_rows(values_only=True))


def column(sheet: Any, head: str) -> list[Any]:
    heads, *body = rows(sheet)
    at = heads.index(head)
    return [row[at] for row in body]


def test_the_summary_has_the_numbers(run: Samples, tmp_path: Path) -> None:
    report = make_report(run)
    found = {row[0]: row[1:] for row in rows(saved(run, tmp_path)["Summary"])}
    assert found["Run"][0] == "Checkout"
    assert found["Total"][0] == 50
    assert found["Completed"][0] == report.completed
    assert found["Throughput (successes/s)"][0] == pytest.approx(report.throughput)
    assert found["p99"][:3] == pytest.approx(
        [column.percentiles["p99"] for column in (report.latency, report.service, report.lateness)]
    )
    shown = [row[1] for row in rows(saved(run, tmp_path)["Summary"]) if row[0] == "Warning"]
    assert shown == report.warnings
    assert found["Started (UTC)"][0].isoformat().startswith("2026-11-18T11:06:40")


def test_every_interval_has_a_row(run: Samples, tmp_path: Path) -> None:
    report = make_report(run)
    sheet = saved(run, tmp_path)["Intervals"]
    assert column(sheet, "completed") == [interval.completed for interval in report.intervals]
    assert column(sheet, "p99 (s)") == pytest.approx([i.p99 for i in report.intervals])


def test_every_call_has_a_row(run: Samples, tmp_path: Path) -> None:
    run.success[3], run.kinds, run.messages = 0, {3: "HTTP 503"}, {3: "away"}
    sheet = saved(run, tmp_path)["Logs"]
    assert column(sheet, "id") == list(range(1, 51))
    assert column(sheet, "status")[3] == "failed"
    assert column(sheet, "error")[2:5] == [None, "HTTP 503", None]
    assert column(sheet, "message")[3] == "away"
    assert column(sheet, "latency (s)")[7] == pytest.approx(run.ended[7] - run.planned[7])
    planned = column(sheet, "planned")
    assert (planned[10] - planned[0]).total_seconds() == pytest.approx(1, abs=0.002)


def test_without_a_plan_there_is_only_one_duration(tmp_path: Path) -> None:
    sheet = saved(a_run(rate=10, duration=1, open_loop=False), tmp_path)["Logs"]
    assert rows(sheet)[0][:5] == ("id", "status", "started", "ended", "duration (s)")


def test_metadata_has_columns(run: Samples, tmp_path: Path) -> None:
    run.metadata = {
        0: {"region": "eu", "size": 3, "id": "a7"},
        1: {"ratio": 0.5, "ok": True, "tags": ["a", "ü"], "none": None},
    }
    sheet = saved(run, tmp_path)["Logs"]
    assert column(sheet, "region")[:2] == ["eu", None]
    assert column(sheet, "size")[0] == 3
    assert column(sheet, "id (metadata)")[0] == "a7"
    assert column(sheet, "ratio")[1] == 0.5
    assert column(sheet, "ok")[1] is True
    assert column(sheet, "tags")[1] == '["a", "ü"]'


def test_too_many_keys_share_a_column(run: Samples, tmp_path: Path) -> None:
    run.metadata = {0: {f"key{number}": number for number in range(1000)}}
    sheet = saved(run, tmp_path)["Logs"]
    assert sheet.max_column < 250
    rest = msgspec.json.decode(column(sheet, "more metadata")[0])
    assert rest["key999"] == 999
    assert "key0" not in rest


@pytest.mark.parametrize("text", FORMULAS)
def test_text_is_no_formula(text: str, run: Samples, tmp_path: Path) -> None:
    run.success[0], run.kinds, run.messages = 0, {0: text}, {0: text}
    run.metadata = {0: {text: text}}
    run.conditions.title = run.conditions.function = run.conditions.plan = text
    run.notes = [text]
    book = saved(run, tmp_path)
    assert column(book["Logs"], text)[0] == text
    for sheet in book:
        for cells in sheet.iter_rows():
            assert [cell for cell in cells if cell.data_type == "f" or cell.hyperlink] == []
    with zipfile.ZipFile(tmp_path / "report.xlsx") as packed:
        sheets = [name for name in packed.namelist() if name.startswith("xl/worksheets/sheet")]
        assert len(sheets) == 3
        for name in sheets:
            assert not re.search(rb"<f[ >]", packed.read(name))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (2**60, str(2**60)),
        (10**15, 10**15),
        (-(10**15) - 1, "-1000000000000001"),
        ("a\x00b\ud800c\uffff", "a\ufffdb\ufffdc\ufffd"),
        ("<r><t>raw</t></r>", "<r><t>raw</t></r> "),
        ("<b>&amp;\"'", "<b>&amp;\"'"),
        ("_x0041_", "_x0041_"),
        (" two\nlines ", " two\nlines "),
        ({"a": {1, 2}}, '{"a": "{1, 2}"}'),
        (object, "\"<class 'object'>\""),
    ],
)
def test_odd_values_keep_what_can_be_kept(
    value: object, shown: object, run: Samples, tmp_path: Path
) -> None:
    run.metadata = {0: {"odd": value}}
    found = column(saved(run, tmp_path)["Logs"], "odd")[0]
    # (A spreadsheet reads _x0041_ as A, unless it is escaped; this reader knows only the first.)
    assert (unescape(found) if isinstance(found, str) else found) == shown


@pytest.mark.parametrize("sign", ["x", "\N{GRINNING FACE}"])
def test_long_texts_are_cut_and_say_so(sign: str, run: Samples, tmp_path: Path) -> None:
    run.metadata = {0: {"odd": sign * 50_000, "fits": "y" * 32_767}}
    sheet = saved(run, tmp_path)["Logs"]
    found = column(sheet, "odd")[0]
    assert len(found.encode("utf-16-le")) <= 2 * 32_767
    assert found.startswith(sign * 1000)
    assert found.endswith("… (50,000 characters)")
    assert len(column(sheet, "fits")[0]) in {32_766, 32_767}


def test_rows_that_do_not_fit_go_to_further_sheets(
    run: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 21)
    book = saved(run, tmp_path)
    logs = [name for name in book.sheetnames if name.startswith("Logs")]
    assert logs == ["Logs", "Logs 2", "Logs 3"]
    assert [book[name].max_row for name in logs] == [21, 21, 11]
    ids = [number for name in logs for number in column(book[name], "id")]
    assert ids == list(range(1, 51))


def test_a_sheet_that_is_just_full_is_the_last(
    run: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 26)
    assert "Logs 3" not in saved(run, tmp_path).sheetnames


def test_a_report_without_calls_can_be_saved(tmp_path: Path) -> None:
    book = saved(Samples(), tmp_path)
    assert rows(book["Logs"])[0][0] == "id"
    assert book["Logs"].max_row == 1


def test_without_the_calls_there_is_no_sheet_of_them(run: Samples, tmp_path: Path) -> None:
    save_xlsx(make_report(run), tmp_path / "report.xlsx")
    book = openpyxl.load_workbook(tmp_path / "report.xlsx")
    assert book.sheetnames == ["Summary", "Intervals"]


def test_a_failure_leaves_no_file(
    run: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    report: Report = make_report(run)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(xlsx, "_text", broken)
    with pytest.raises(OSError, match="disk full"):
        save_xlsx(report, tmp_path / "report.xlsx", run)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_told(
    run: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    with pytest.raises(MissingExtra, match=r"taskyard\[report\]"):
        save_xlsx(make_report(run), tmp_path / "report.xlsx")


def test_instants_are_of_utc(run: Samples, tmp_path: Path) -> None:
    first = column(saved(run, tmp_path)["Logs"], "planned")[0]
    assert first.isoformat() == "2026-11-18T11:06:40"
    assert run.planned[0] == START
