"""A report as a workbook for spreadsheets: summary, intervals, and every call.

What comes from outside is written as text and never as a formula, whatever it begins with.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from taskyard.errors import MissingExtra

if TYPE_CHECKING:
    from xlsxwriter import Workbook
    from xlsxwriter.chart import Chart
    from xlsxwriter.format import Format
    from xlsxwriter.worksheet import Worksheet

    from taskyard.report.report import Report
    from taskyard.report.samples import Samples

__all__ = ["MOST_ROWS", "save_xlsx"]

MOST_ROWS = 1_048_576
"""How many rows a sheet can have, headings included; what is more goes to a further sheet."""

_MOST_KEYS = 200
"""How many keys of metadata get a column of their own."""

_MOST_CELLS = 25_000_000
"""From here on the file may need the larger kind of zip archive (4 GB)."""

_MOST_CHARTED = 32_000
"""Of how many points a spreadsheet draws a line."""

_LONGEST = 32_767
"""How many characters (of UTF-16) fit into a cell."""

_WHOLE = 10**15
"""Of a larger whole number a spreadsheet does not show all digits."""

_NOT_ALLOWED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_DAY = 86_400.0
_EPOCH = 25_569
"""What a spreadsheet calls the day on which unix time begins."""

Row: TypeAlias = Sequence[object]


class _Instant(float):
    """Unix seconds that are to be shown as a date and time (UTC)."""

    __slots__ = ()


def save_xlsx(report: Report, path: Path, samples: Samples | None = None) -> None:
    """Write a report as a workbook.

    Arguments:
        report: its numbers.
        path: of the file; there is one under this name only when it is whole.
        samples: the calls, each of which gets a row; None: there is no sheet of them.

    Raises:
        MissingExtra: xlsxwriter is not installed.
        OSError: the file cannot be written.
    """
    try:
        from xlsxwriter import Workbook
        from xlsxwriter.exceptions import FileCreateError
    except ImportError:
        raise MissingExtra(
            "XLSX files are written by xlsxwriter: pip install 'taskyard[report]'"
        ) from None
    if path.is_dir():  # or the file would be moved into it
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    with tempfile.TemporaryDirectory(prefix="taskyard-report-") as folder:
        made = Path(folder) / "report.xlsx"
        options = {
            "constant_memory": True,
            "tmpdir": folder,
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "strings_to_numbers": False,
            "nan_inf_to_errors": False,
        }
        try:
            with Workbook(str(made), options) as workbook:
                _fill(_Writer(workbook), report, samples)
        except FileCreateError as error:  # it holds the system's own
            cause = error.args[0] if error.args else error
            raise cause if isinstance(cause, OSError) else OSError(str(cause)) from error
        shutil.move(made, path)


def _fill(writer: _Writer, report: Report, samples: Samples | None) -> None:
    summary = _summary(writer, report)
    _intervals(writer, report)
    charts = _charts(writer.workbook, len(report.intervals))
    for place, chart in zip(("G2", "G19"), charts, strict=False):
        summary.insert_chart(place, chart, {"description": "See the sheet Intervals"})
    if samples is None:
        return
    columns = _Columns(samples)
    writer.table("Logs", columns.heads, columns.rows())
    if len(samples) * len(columns.heads) > _MOST_CELLS:
        writer.workbook.use_zip64()


class _Writer:
    """Puts values into sheets, each as what it is."""

    def __init__(self, workbook: Workbook) -> None:
        self.workbook = workbook
        self.bold = workbook.add_format({"bold": True})
        self._dated = workbook.add_format({"num_format": "yyyy-mm-dd hh:mm:ss.000"})

    def sheet(self, name: str) -> Worksheet:
        return self.workbook.add_worksheet(name)

    def table(self, name: str, heads: Row, rows: Iterable[Row]) -> None:
        """A table with headings, over as many sheets as it takes."""
        rows = iter(rows)
        number = 1
        while True:
            sheet = self.sheet(name if number == 1 else f"{name} {number}")
            dates = [head in _DATES for head in heads]
            for column, dated in enumerate(dates):
                width, look = (24, self._dated) if dated else (14, None)
                sheet.set_column(column, column, width, look)
            sheet.freeze_panes(1, 0)
            self.row(sheet, 0, heads, self.bold)
            last = 0
            for last, row in enumerate(islice(rows, MOST_ROWS - 1), 1):
                self.row(sheet, last, row)
            sheet.autofilter(0, 0, last, max(0, len(heads) - 1))
            following = next(rows, None) if last == MOST_ROWS - 1 else None
            if following is None:
                return
            rows = _before(following, rows)
            number += 1

    def row(self, sheet: Worksheet, number: int, row: Row, format_: Format | None = None) -> None:
        for column, value in enumerate(row):
            _write(sheet, number, column, value, format_)

    def pairs(self, sheet: Worksheet, start: int, pairs: Iterable[Row]) -> int:
        """Lines of a name and values. Returns the number of the next line."""
        line = start
        for pair in pairs:
            for column, value in enumerate(pair):
                dated = self._dated if isinstance(value, _Instant) else None
                _write(sheet, line, column, value, dated if column else self.bold)
            line += 1
        return line


_DATES = frozenset({"planned", "started", "ended"})


def _before(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest


# Cells


def _write(
    sheet: Worksheet, row: int, column: int, value: object, format_: Format | None = None
) -> None:
    if value is None or value == "":
        return
    if isinstance(value, bool):
        sheet.write_boolean(row, column, value, format_)
    elif isinstance(value, (float, int)) and _is_writable(value):
        number = value / _DAY + _EPOCH if isinstance(value, _Instant) else value
        sheet.write_number(row, column, number, format_)
    else:
        sheet.write_string(row, column, _text(value), format_)


def _is_writable(value: float) -> bool:
    """Whether a spreadsheet can hold a number as it is."""
    if isinstance(value, int):
        return -_WHOLE <= value <= _WHOLE
    return math.isfinite(value)


def _text(value: object) -> str:
    if isinstance(value, (int, float)):
        return str(value)
    text = value if isinstance(value, str) else _as_json(value)
    text = _NOT_ALLOWED.sub("\ufffd", text)
    if len(text) > _LONGEST // 2:
        text = _cut(text)
    # xlsxwriter takes such a text for one that it has formatted itself, and would not escape it.
    return f"{text} " if text.startswith("<r>") and text.endswith("</r>") else text


def _cut(text: str) -> str:
    encoded = text.encode("utf-16-le")
    if len(encoded) <= 2 * (_LONGEST - 1):
        return text
    note = f"… ({len(text):,} characters)"
    kept = encoded[: 2 * (_LONGEST - 1 - len(note))]
    return kept.decode("utf-16-le", "ignore") + note


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


# Sheets


def _summary(writer: _Writer, report: Report) -> Worksheet:
    sheet = writer.sheet("Summary")
    sheet.set_column(0, 0, 34)
    sheet.set_column(1, 3, 22)
    conditions = report.conditions
    start = writer.pairs(sheet, 0, [("Run", report.title)])
    warnings = [("Warning", warning) for warning in report.warnings]
    start = writer.pairs(sheet, start, warnings) if warnings else start
    start = writer.pairs(sheet, start + 1, _counts(report)) + 1
    columns = [("Duration (s)", report.latency)]
    if conditions.open_loop:
        columns = [("Latency (s)", report.latency), ("Service time (s)", report.service)]
        columns.append(("Lateness (s)", report.lateness))
    writer.row(sheet, start, ["", *(head for head, _ in columns)], writer.bold)
    rows: list[Row] = [
        (name, *(getattr(column, name) for _, column in columns))
        for name in ("count", "mean", "stdev", "min")
    ]
    rows += (
        (name, *(column.percentiles.get(name) for _, column in columns))
        for name in report.latency.percentiles
    )
    rows.append(("max", *(column.max for _, column in columns)))
    start = writer.pairs(sheet, start + 1, rows) + 1
    if report.errors:
        writer.row(sheet, start, ["Errors by kind", "calls", "for example"], writer.bold)
        errors = ((error.kind, error.count, error.example) for error in report.errors)
        writer.pairs(sheet, start + 1, errors)
    return sheet


def _counts(report: Report) -> Iterator[Row]:
    conditions, peak = report.conditions, report.peak
    yield "Function", conditions.function
    yield "Workers", conditions.workers or None
    yield "Kind of workers", conditions.kind
    yield "Plan", conditions.plan
    yield "Loop", conditions.loop
    yield "Started (UTC)", _Instant(report.started)
    yield "Ended (UTC)", _Instant(report.ended)
    yield "Duration (s)", report.duration
    yield "Interrupted", conditions.interrupted
    yield "Generator was the bottleneck", report.generator_bound
    for name in ("total", "completed", "failed", "cancelled", "undispatched", "lost", "unknown"):
        yield name.capitalize(), getattr(report, name)
    yield "Begun late for want of a worker", conditions.limited
    yield "Most at once", report.max_concurrency
    yield "Throughput (successes/s)", report.throughput
    if peak is not None:
        yield "Peak (successes/s)", peak.tps
        yield "Peak from (UTC)", _Instant(peak.started)
        yield "Peak to (UTC)", _Instant(peak.ended)


_INTERVAL = (
    *("started", "ended", "begun", "completed", "failed", "throughput (/s)", "in flight"),
    *("p50 (s)", "p99 (s)"),
)


def _intervals(writer: _Writer, report: Report) -> None:
    rows = (
        (
            *(_Instant(interval.started), _Instant(interval.ended)),
            *(interval.begun, interval.completed, interval.failed, interval.throughput),
            *(interval.in_flight, interval.p50, interval.p99),
        )
        for interval in report.intervals
    )
    writer.table("Intervals", _INTERVAL, rows)


def _charts(workbook: Workbook, intervals: int) -> Iterator[Chart]:
    """Charts of the spreadsheet's own, made from the sheet of intervals."""
    if not 0 < intervals <= _MOST_CHARTED:
        return
    for title, unit, columns in (
        ("Throughput", "per second", [5]),
        ("Latency over time", "seconds", [7, 8]),
    ):
        chart = workbook.add_chart({"type": "line"})
        for column in columns:
            series = {
                "name": ["Intervals", 0, column],
                "categories": ["Intervals", 1, 0, intervals, 0],
                "values": ["Intervals", 1, column, intervals, column],
                "line": {"width": 1.5},
            }
            chart.add_series(series)
        chart.set_title({"name": title})
        chart.set_x_axis({"num_format": "hh:mm:ss"})
        chart.set_y_axis({"name": unit, "min": 0})
        chart.set_size({"width": 720, "height": 320})
        yield chart


class _Columns:
    """What is known of each call, one row per call."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._open_loop = samples.conditions.open_loop
        keys = dict.fromkeys(key for noted in samples.metadata.values() for key in noted)
        self._keys = list(islice(keys, _MOST_KEYS))
        self._more = set(keys) - set(self._keys)
        own = ["id", "status"]
        own += ["planned", "started", "ended", "latency (s)", "service time (s)", "lateness (s)"]
        if not self._open_loop:
            own = ["id", "status", "started", "ended", "duration (s)"]
        own += ["error"] if samples.kinds else []
        own += ["message"] if samples.messages else []
        taken = {*own, "more metadata"}
        named = [f"{key} (metadata)" if key in taken else str(key) for key in self._keys]
        self.heads = own + named + (["more metadata"] if self._more else [])

    def rows(self) -> Iterator[Row]:
        samples = self._samples
        ids: Sequence[int] = samples.ids or range(1, len(samples) + 1)
        columns = zip(
            ids, samples.success, samples.planned, samples.started, samples.ended, strict=True
        )
        for index, (number, success, planned, started, ended) in enumerate(columns):
            row: list[object] = [number, "completed" if success else "failed"]
            if self._open_loop:
                row += [_Instant(planned), _Instant(started), _Instant(ended)]
                row += [ended - planned, ended - started, started - planned]
            else:
                row += [_Instant(started), _Instant(ended), ended - started]
            if samples.kinds:
                row.append(samples.kinds.get(index))
            if samples.messages:
                row.append(samples.messages.get(index))
            noted = samples.metadata.get(index)
            if noted:
                row += map(noted.get, self._keys)
                if self._more:
                    row.append({key: noted[key] for key in noted if key in self._more} or None)
            yield row
