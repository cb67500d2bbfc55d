"""What the logs of other tools mean, guessed from the names of their columns.

Known are those of JMeter (JTL as CSV), k6 (CSV, JSON), vegeta (`encode`: CSV, JSON), hey and oha
(CSV). Of others, names are compared without case and without what is no letter or digit:

| meaning | names |
|---|---|
| planned | planned, scheduled, intended, with `_at`, `_time` or `_start` |
| started | started, start, begin, timestamp, time, ts, date, with `_at` or `_time` |
| ended | ended, end, finished, stop, completed, with `_at` or `_time` |
| duration | duration, elapsed, latency, response_time, took, total_time, time_total, with a unit |
| success | success, ok, succeeded, passed |
| status | status, code, with `response_`, `http_`, `status_` |
| error | error, exception, failure_message, error_message, reason |
| id | id, task_id, seq, number |

An instant is a text of ISO 8601, or a number since 1970 (or since the start): of seconds, milli-,
micro- or nanoseconds, by its size. A duration is in the unit that its name ends in; without one, in
that of the instants if they are no seconds; else `response_time`, as in Locust, is milliseconds and
all others are seconds.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from taskyard.errors import ReportError
from taskyard.report.samples import Samples, record

__all__ = ["MEANINGS", "csv_rows", "shape"]

Row: TypeAlias = Mapping[str, Any]

MEANINGS = ("planned", "started", "ended", "duration", "success", "status", "error", "id")

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_UNIT_NAMES = {
    "s": "s", "sec": "s", "secs": "s", "seconds": "s", "ms": "ms", "msec": "ms", "millis": "ms",
    "milliseconds": "ms", "us": "us", "µs": "us", "micros": "us", "microseconds": "us", "ns": "ns",
    "nanos": "ns", "nanoseconds": "ns",
}  # fmt: skip

# In order of preference, without the endings that are tried as well.
_NAMES: dict[str, tuple[str, ...]] = {
    "planned": ("planned", "scheduled", "intended"),
    "started": (
        "started", "start", "begin", "requeststart", "timestamp", "time", "ts", "date", "offset",
    ),
    "ended": ("ended", "end", "finished", "finish", "stop", "completed"),
    "duration": (
        "duration", "elapsed", "requestduration", "responsetime", "latency", "took", "totaltime",
        "timetotal",
    ),
    "success": ("success", "ok", "succeeded", "passed"),
    "status": (
        "statuscode", "responsecode", "httpstatus", "httpcode", "httpstatuscode", "code", "status",
    ),
    "error": ("error", "exception", "failuremessage", "errormessage", "reason"),
    "id": ("id", "taskid", "seq", "number"),
}  # fmt: skip
_ENDINGS = {
    "planned": ("", "at", "time", "start"),
    "started": ("", "at", "time"),
    "ended": ("", "at", "time"),
    "duration": ("", *_UNIT_NAMES),
}

_VEGETA = (
    "timestamp", "code", "latency", "bytes_out", "bytes_in", "error", "body", "attack", "seq",
    "method", "url", "headers",
)  # fmt: skip

_TRUE = {
    "true",
    "t",
    "yes",
    "y",
    "ok",
    "success",
    "succeeded",
    "successful",
    "pass",
    "passed",
    "done",
}
_TRUE |= {"completed", "complete", "1"}
_FALSE = {
    "false",
    "f",
    "no",
    "n",
    "0",
    "0.0",
    "fail",
    "failed",
    "failure",
    "error",
    "ko",
    "none",
    "null",
    "",
}
_NO_ERROR = {"", "null", "none", "nil", "-", "0", "false"}
_QUANTITY = re.compile(r"([-+0-9.eE]+)\s*([a-zµ]*)")


class _Column(NamedTuple):
    """A column: its name, and how many seconds one of it is (None: its values say so)."""

    name: str
    unit: float | None


def csv_rows(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file by its headings; separated by commas, semicolons, tabs or bars."""
    texts = _roomy(line.decode("utf-8", "replace") for line in lines)
    first = next(texts, "")
    delimiter = max(",;\t|", key=first.count)
    headings = next(_parsed([first], delimiter), [])
    rows = _parsed(texts, delimiter)
    if headings and headings[0].isdecimal() and len(headings) in {9, len(_VEGETA)}:
        rows, headings = chain([headings], rows), [*_VEGETA]
        read: Callable[[Iterable[tuple[str, str]]], dict[str, Any]] = _vegeta
    else:
        read = dict
    for row in rows:
        # Of one that was cut off, what is missing is missed by whoever takes it.
        yield read(zip(headings, row, strict=False)) if len(row) <= len(headings) else {}


def _roomy(texts: Iterable[str]) -> Iterator[str]:
    """Lines, with as much room for a field as each takes: vegeta writes whole bodies into one.

    More than usual is not given to all: after a quotation mark that is not closed, the module goes
    on as soon as a field is full.
    """
    usual = csv.field_size_limit()
    try:
        for text in texts:
            csv.field_size_limit(max(usual, len(text)))
            yield text
    finally:
        csv.field_size_limit(usual)


def _parsed(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The cells of each line; none, if they cannot be told from each other."""
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield []


def _vegeta(cells: Iterable[tuple[str, str]]) -> dict[str, Any]:
    found: dict[str, Any] = dict(cells)
    with contextlib.suppress(KeyError, ValueError):  # then it is broken, and told so later
        found["latency"] = float(found["latency"]) * UNITS["ns"]
    return found


def shape(
    row: Row, samples: Samples, columns: Mapping[str, str], name: str
) -> Callable[[Row], None]:
    """Find out what the columns of a log mean.

    Arguments:
        row: the first one.
        samples: what takes the calls; what was guessed is noted there.
        columns: what is not to be guessed: see `reading.read_samples`.
        name: what to call the log in errors.

    Returns:
        A function that takes over a row; KeyError, TypeError or ValueError: it is broken.

    Raises:
        ReportError: nothing says when calls began and ended.
    """
    if not columns and "metric_name" in row:
        return _K6(samples).take_cells
    if not columns and row.keys() >= {"type", "metric"}:
        return _K6(samples).take_point
    if not columns and _holds_sums(row):
        raise ReportError(_unreadable(row, {}, name))
    found = _guessed(row)
    found.update(_told(columns, row))
    instants = found.keys() & {"started", "ended", "planned"}
    if not instants or (len(instants) < 2 and "duration" not in found):
        raise ReportError(_unreadable(row, found, name))
    taker = _Columns(samples, {key: found[key] for key in MEANINGS if key in found})
    if found.keys() - columns.keys():
        samples.notes.append(
            f"Of {name}, {taker.described}. Say so if its columns mean other things."
        )
    return taker.take


def _unreadable(row: Row, found: Mapping[str, _Column], name: str) -> str:
    if _holds_sums(row):
        return (
            f"{name} holds sums over many calls, not calls: percentiles and peaks cannot be had"
            " from it. Have the tool write a line for each call"
        )
    known = f"only {', '.join(found)} is known" if found else "none is known"
    return (
        f"nothing in {name} says when calls began and how long they took: of its columns"
        f" ({', '.join(map(str, list(row)[:20])) or 'there are none'}) {known}. Name them, as in"
        " started=when, duration=took:ms"
    )


def _holds_sums(row: Row) -> bool:
    """Whether a row is no call, but what many add up to: of Locust, or `vegeta report`."""
    names = {_plain(column) for column in row}
    sums = {"requestcount", "totalrequestcount", "averageresponsetime"}
    return bool(sums & names) or {"latencies", "requests"} <= names


def _plain(name: str) -> str:
    return "".join(character for character in str(name).lower() if character.isalnum())


def _guessed(row: Row) -> dict[str, _Column]:
    plain = {_plain(name): name for name in reversed([*row])}
    found: dict[str, _Column] = {}
    for meaning, names in _NAMES.items():
        endings = _ENDINGS.get(meaning, ("",))
        for key in (name + ending for name in names for ending in endings):
            if key in plain and meaning not in found and _usable(row[plain[key]]):
                found[meaning] = _Column(plain[key], None)
    if "duration" in found:
        found["duration"] = _with_unit(found["duration"].name, row, found)
    return found


def _usable(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _with_unit(name: str, row: Row, found: Mapping[str, _Column]) -> _Column:
    plain = _plain(name)
    endings = [ending for ending in _UNIT_NAMES if plain.endswith(ending)]
    base = [key for ending in endings for key in _NAMES["duration"] if key + ending == plain]
    if base:
        return _Column(name, UNITS[_UNIT_NAMES[plain.removeprefix(base[0])]])
    if {"timeStamp", "elapsed"} <= row.keys():  # JMeter, which can write instants as text
        return _Column(name, UNITS["ms"])
    if {"attack", "latency"} <= row.keys():  # vegeta
        return _Column(name, UNITS["ns"] if isinstance(row[name], int) else UNITS["s"])
    instant = next((found[key].name for key in ("started", "ended") if key in found), None)
    scale = _scale(row[instant]) if instant else 1.0
    if scale != UNITS["s"]:
        return _Column(name, scale)
    return _Column(name, UNITS["ms"] if plain == "responsetime" and instant != "offset" else 1.0)


def _told(columns: Mapping[str, str], row: Row) -> dict[str, _Column]:
    found = {}
    for meaning, text in columns.items():
        name, colon, unit = text.rpartition(":")
        if not colon or unit not in UNITS or text in row:
            name, unit = text, ""
        if meaning not in MEANINGS:
            raise ReportError(f"a column can mean {', '.join(MEANINGS)}, not {meaning!r}")
        if name not in row:
            raise ReportError(f"there is no column {name!r}; there are: {', '.join(map(str, row))}")
        scale = UNITS[unit] if unit else None
        if meaning == "duration" and scale is None:
            scale = _with_unit(name, row, _guessed(row)).unit
        found[meaning] = _Column(name, scale)
    return found


# Values


def _scale(value: Any) -> float:
    """How many seconds one of an instant's unit is, by its size."""
    try:
        size = abs(float(value))
    except (TypeError, ValueError):
        return 1.0
    return next((UNITS[unit] for unit, least in _SIZES if size >= least), 1.0)


_SIZES = (("ns", 1e17), ("us", 1e14), ("ms", 1e11))
"""As seconds, the least of them is in the year 5138; as milliseconds, in 1973."""


def _instant(value: Any, unit: float | None) -> float:
    try:
        number = float(value)
    except ValueError:
        # (JMeter's own example of another format has 2024/01/31.)
        moment = datetime.fromisoformat(value.strip().replace("/", "-"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    scale = _scale(number) if unit is None else unit
    if scale == UNITS["ns"] and not isinstance(value, float):
        return (
            int(value) / 1e9
        )  # a float of nanoseconds since 1970 is a quarter of a microsecond off
    return number * scale


def _seconds(value: Any, unit: float) -> float:
    try:
        return float(value) * unit
    except ValueError:
        quantity = _QUANTITY.fullmatch(value.strip())
        if quantity is None:
            raise
        return float(quantity[1]) * UNITS[_UNIT_NAMES[quantity[2]]]


def _good_status(value: Any) -> bool:
    text = str(value).strip().lower()
    code = text.split(" ")[0].split(".")[0]
    if code.isdecimal() and code != "1":
        return 200 <= int(code) < 400
    return text in _TRUE


def _kind(status: Any, error: str) -> str:
    code = str(status or "").strip().removesuffix(".0")
    code = "" if code == "0" else code
    known = code.isdecimal() and int(code) >= 100
    if known and not (error and _good_status(code)):
        return f"HTTP {code}"
    # Else it is what an assertion said of a good answer, or there was no answer at all.
    return " ".join(error.split())[:60] or " ".join(code.split())[:60] or "failed"


class _Columns:
    """Takes over rows of which is known what their columns mean."""

    def __init__(self, samples: Samples, found: Mapping[str, _Column]) -> None:
        self._samples = samples
        self._found = found

    @property
    def described(self) -> str:
        """What was taken for what."""
        units = {scale: unit for unit, scale in UNITS.items()}
        texts = [
            f"{column.name} is {meaning}" + (f" ({units[column.unit]})" if column.unit else "")
            for meaning, column in self._found.items()
        ]
        return ", ".join(texts)

    def take(self, row: Row) -> None:
        """Take over one."""
        started, ended = self._instant(row, "started"), self._instant(row, "ended")
        planned = self._instant(row, "planned")
        duration = self._found.get("duration")
        if duration and (started is None or ended is None):
            took = _seconds(row[duration.name], duration.unit or 1.0)
            if started is None:
                started = planned if ended is None else ended - took
            if started is not None and ended is None:
                ended = started + took
        if started is None:
            started = planned
        if started is None or ended is None:
            raise ValueError("no instants")
        error = self._error(row)
        status = self._value(row, "status")
        good = self._good(row, status, error)
        why = None if good else (_kind(status, error), error)
        record(self._samples, (planned, started, ended), self._id(row), why)

    def _value(self, row: Row, meaning: str) -> Any:
        column = self._found.get(meaning)
        return row.get(column.name) if column else None

    def _instant(self, row: Row, meaning: str) -> float | None:
        value = self._value(row, meaning)
        return None if value in {None, ""} else _instant(value, self._found[meaning].unit)

    def _error(self, row: Row) -> str:
        value = self._value(row, "error")
        text = "" if value is None else str(value).strip()
        return "" if text.lower() in _NO_ERROR else text

    def _good(self, row: Row, status: Any, error: str) -> bool:
        if "success" in self._found:
            return str(self._value(row, "success")).strip().lower() not in _FALSE
        return not error and ("status" not in self._found or _good_status(status))

    def _id(self, row: Row) -> int | None:
        try:
            return int(self._value(row, "id"))
        except (TypeError, ValueError):
            return None


class _K6:
    """Takes over what k6 writes: a row per measured value, of which one is how long a request took.

    The instant is that at which it ended.
    """

    METRICS = frozenset({"http_req_duration", "grpc_req_duration", "ws_session_duration"})

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def take_cells(self, row: Row) -> None:
        """A row of CSV."""
        if row["metric_name"] in self.METRICS:
            self._take(row["timestamp"], row["metric_value"], row)

    def take_point(self, row: Row) -> None:
        """An object of JSON."""
        if row["type"] == "Point" and row["metric"] in self.METRICS:
            data = row["data"]
            self._take(data["time"], data["value"], data.get("tags") or {})

    def _take(self, instant: Any, value: Any, tags: Row) -> None:
        samples = self._samples
        ended = _instant(instant, None)
        if not len(samples) and float(ended).is_integer():
            samples.notes.append(
                "The instants are whole seconds, so the peak and the concurrency are rough. Have k6"
                " write finer ones: K6_CSV_TIME_FORMAT=unix_micro."
            )
        status, error = tags.get("status"), tags.get("error") or tags.get("error_code")
        # A script may expect other answers than usual. A web socket begins with a 101.
        good = not error and (status in {None, "", "0", "101"} or _good_status(status))
        expected = str(tags.get("expected_response") or "").lower()
        good = expected in _TRUE if expected else good
        started = ended - _seconds(value, UNITS["ms"])
        why = None if good else (_kind(status, error or ""), error or "")
        record(samples, (None, started, ended), None, why)
