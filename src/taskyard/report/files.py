"""Reports as files."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from taskyard.errors import MissingExtra, ReportError

if TYPE_CHECKING:
    from taskyard.report.report import Report
    from taskyard.report.samples import Samples

__all__ = ["ENDINGS", "check_ending", "check_writable", "save"]

_TEXTS: dict[str, Callable[[Report], str]] = {
    ".html": lambda report: report.html(),
    ".json": lambda report: report.json() + "\n",
    ".csv": lambda report: report.csv(),
    ".txt": lambda report: report.text(),
}
ENDINGS = (*_TEXTS, ".xlsx", ".png")
"""What files a report can be written to end in."""
_WRITERS = {".xlsx": "xlsxwriter", ".png": "matplotlib"}


def check_ending(path: Path) -> None:
    """Find out whether a report can be written to a file of this name, before there is one.

    Raises:
        ReportError: no.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ReportError(f"a report ends in {', '.join(ENDINGS)}, and {path.name} does not")


def check_writable(path: Path) -> None:
    """Find out whether a report can be written to a file, as far as that can be told beforehand.

    Raises:
        ReportError: its name has another ending, or it cannot be made.
        MissingExtra: the package that writes such files is not installed.
    """
    check_ending(path)
    package = _WRITERS.get(path.suffix.lower())
    if package is not None and find_spec(package) is None:
        raise MissingExtra(f"{path} is written by {package}: pip install 'taskyard[report]'")
    if not path.parent.is_dir():
        raise ReportError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ReportError(f"{path} cannot be written: no file can be made there")


def save(report: Report, path: Path, samples: Samples | None = None) -> None:
    """Write a report to a file, as its ending says. See `Report.save`."""
    check_ending(path)
    ending = path.suffix.lower()
    try:
        if ending == ".xlsx":
            from taskyard.report.xlsx import save_xlsx

            save_xlsx(report, path, samples)
        elif ending == ".png":
            path.write_bytes(report.png())
        else:
            # (What comes from outside may hold halves of characters, which no file takes.)
            text = _TEXTS[ending](report)
            path.write_text(text, encoding="utf-8", errors="replace", newline="")
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror or error}") from error
