"""Reports as files."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from tests.report.pages.runs import a_run
from xlsxwriter import Workbook

from taskyard.errors import ReportError
from taskyard.report import make_report
from taskyard.report.files import ENDINGS

BEGINS = {
    ".html": b"<!doctype html>",
    ".xlsx": b"PK",
    ".png": b"\x89PNG",
    ".json": b"{",
    ".csv": b"started,",
    ".txt": b"Checkout",
}


@pytest.mark.parametrize("suffix", ENDINGS)
def test_the_suffix_says_what_is_written(suffix: str, tmp_path: Path) -> None:
    run = a_run(duration=2)
    report = make_report(run)
    path = tmp_path / f"out{suffix.upper()}"
    path.write_text("what was there before")
    report.save(path, run)
    assert path.read_bytes().startswith(BEGINS[suffix])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ENDINGS)
def test_halves_of_characters_do_no_harm(suffix: str, tmp_path: Path) -> None:
    run = a_run(duration=2)
    run.conditions.title, run.success[0], run.kinds[0] = "\ud800", 0, "\udfff"
    make_report(run).save(tmp_path / f"out{suffix}", run)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"\.html, .*report.pdf"):
        make_report(a_run(duration=1)).save(tmp_path / "report.pdf")


def test_methods_give_what_files_hold(tmp_path: Path) -> None:
    report = make_report(a_run(duration=2))
    report.save(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == report.html()
    assert report.png().startswith(b"\x89PNG")
    assert json.loads(report.json())["completed"] == report.completed


@pytest.mark.parametrize("suffix", ENDINGS)
def test_a_folder_is_no_file(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / f"out{suffix}"
    folder.mkdir()
    with pytest.raises(ReportError, match=r"out\.\w+ cannot be written: Is a directory"):
        make_report(a_run(duration=2)).save(folder)
    assert [*folder.iterdir()] == []


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Workbook._store_workbook

    def full(book: Workbook) -> None:
        store(book)  # else it leaves files open
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Workbook, "_store_workbook", full)
    path = tmp_path / "out.xlsx"
    with pytest.raises(ReportError, match=r"out\.xlsx cannot be written: No space left"):
        make_report(a_run(duration=2)).save(path)
    assert not path.exists()
