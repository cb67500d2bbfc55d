"""Logs, of ours and of others, as samples: dictionaries, JSON lines, and CSV."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import msgspec

from taskyard.errors import ReportError
from taskyard.report import foreign
from taskyard.report.samples import Conditions, Samples, record

__all__ = ["read_rows", "read_samples", "succeeded"]

Row: TypeAlias = Mapping[str, Any]
_Take: TypeAlias = Callable[[Row], None]

_ENDED = ("completed", "failed")
_OTHERS = ("undispatched", "cancelled", "lost", "unknown")
_STATUSES = (*_ENDED, *_OTHERS)
_LONGEST_LINE = 1 << 26
"""Bytes; what has longer lines is no log, and may not fit into memory (a packed file of zeros)."""

_TRIES = 20
"""After how many rows that nobody understands a log is not ours to read."""
_SHOWN_RESPONSE = re.compile(r"<Response \[(\d{3})\]>")
_ERROR_KIND = re.compile(r"\s*([A-Za-z_][\w.]*)(?::|$)")


def read_samples(path: str | Path, *, columns: Mapping[str, str] | None = None) -> Samples:
    """Read the calls from a file: JSON lines, one JSON array, or CSV; also packed by gzip.

    It may be a log of ours, one of worker-dispatcher, or one of another tool: what its columns mean
    is guessed from their names. See `taskyard.report.foreign`. Lines that are broken are counted
    (`Samples.invalid`); a last one that was not written to its end is left out.

    Arguments:
        path: the file.
        columns: what the columns mean, where the guess is wrong: of "planned", "started", "ended",
            "duration", "success", "status", "error" and "id", the name of the column, and behind a
            colon its unit ("took:ms") if it is not to be guessed.

    Raises:
        ReportError: the file cannot be read, or nothing in it says when calls began and ended, or
            it has a line of more than 64 MiB.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if file.peek(2).startswith(b"\x1f\x8b"):
                with gzip.open(file) as unpacked:
                    samples = _read(cast("BinaryIO", unpacked), path.name, columns)
            else:
                samples = _read(file, path.name, columns)
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise ReportError(f"{path} cannot be unpacked: {error}") from error
    if not samples.conditions.function:
        samples.conditions.title = path.name
    return samples


def _read(file: BinaryIO, name: str, columns: Mapping[str, str] | None) -> Samples:
    lines = (line for line in _lines(file, name) if not line.isspace())
    first = next(lines, b"").removeprefix(b"\xef\xbb\xbf")
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ReportError(f"{name} is UTF-16 text: write it as UTF-8")
    start = first.lstrip()[:1]
    everything = chain([first], lines)
    broken: Counter[str] = Counter()
    if start == b"{":
        rows = _json_lines(everything, broken)
    elif start == b"[":
        rows = _json_array(b"".join(everything), name)
    else:
        rows = foreign.csv_rows(everything)
    samples = read_rows(rows, columns=columns, name=name)
    samples.invalid += broken["lines"]
    if samples.invalid and not (len(samples) or any(getattr(samples, name) for name in _OTHERS)):
        said = " ".join(["", *samples.notes])
        raise ReportError(
            f"{name} holds no calls that could be understood, but {samples.invalid:,} other"
            f" lines. Expected are JSON lines or CSV with a line per call.{said}"
        )
    return samples


def _lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a file; an array of JSON, which may well be one line, in pieces."""
    array = None
    while line := file.readline(_LONGEST_LINE):
        if array is None and not line.isspace():
            array = line.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
        if len(line) == _LONGEST_LINE and not array and not line.endswith(b"\n"):
            raise ReportError(
                f"{name} has a line of more than {_LONGEST_LINE >> 20} MiB: it is no log of calls"
            )
        yield line


def _json_lines(lines: Iterable[bytes], broken: Counter[str]) -> Iterator[Row]:
    decode = msgspec.json.Decoder().decode
    for line in lines:
        try:
            row = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # The last one may be under way still, or whoever wrote it was killed.
            broken["lines"] += line.endswith(b"\n")
            continue
        if isinstance(row, dict):
            yield row
        else:
            broken["lines"] += 1


def _json_array(text: bytes, name: str) -> Iterator[Row]:
    try:
        yield from msgspec.json.decode(text, type=list[dict[str, Any]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ReportError(
            f"{name} begins like a JSON array of objects, but is none: {error}"
        ) from error


def read_rows(
    rows: Iterable[Row], *, columns: Mapping[str, str] | None = None, name: str = "the log"
) -> Samples:
    """Take over the rows of a log, whoever wrote it.

    Arguments:
        rows: dictionaries.
        columns: see `read_samples`.
        name: what to call it in errors.

    Raises:
        ReportError: nothing in it says when calls began and ended.
    """
    samples = Samples()
    ours = _Ours(samples)
    rest = iter(rows)
    found = _shape(rest, samples, ours, columns or {}, name)
    if found is None:
        return samples
    take, first = found
    for row in chain([first], rest):
        try:
            take(row)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            if not _begins(row, samples):
                samples.invalid += 1
    ours.close()
    return samples


def _shape(
    rows: Iterator[Row], samples: Samples, ours: _Ours, columns: Mapping[str, str], name: str
) -> tuple[_Take, Row] | None:
    """What takes over rows like these, and the first of them; None: there is none."""
    refused: list[ReportError] = []
    for row in rows:
        if _begins(row, samples):
            continue
        try:
            return _taker(row, samples, ours, columns, name), row
        except ReportError as error:
            refused.append(error)
            if len(refused) == _TRIES:
                break
        except (AttributeError, TypeError):  # it is no dictionary
            pass
        samples.invalid += 1
    if refused:
        raise refused[0]
    return None


def _taker(row: Row, samples: Samples, ours: _Ours, columns: Mapping[str, str], name: str) -> _Take:
    if not row:
        raise TypeError("a line of CSV that is none")
    if not columns and row.get("status") in _STATUSES:
        return ours.take
    if not columns and ("started_at" in row or "result" in row):
        return _Documented(samples).take
    return foreign.shape(row, samples, columns, name)


def _begins(row: Any, samples: Samples) -> bool:
    """Whether a row says what was run; if so, that is noted."""
    if not isinstance(row, Mapping) or "run" not in row or "started" in row:
        return False
    samples.conditions = _conditions(row["run"])
    samples.breaks += len(samples) > 0
    return True


class _Run(msgspec.Struct):
    title: str = ""
    function: str = ""
    kind: str = ""
    workers: int = 0
    plan: str = ""
    limited: int = 0


def _conditions(run: Any) -> Conditions:
    try:
        known = msgspec.convert(run, _Run)
    except msgspec.ValidationError:
        return Conditions()
    return Conditions(**msgspec.structs.asdict(known), open_loop=bool(known.plan))


class _Ours:
    """The log of a run of ours.

    A run that was resumed has several lines of a call: those that do not tell an end are overruled
    by a later one.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._open: dict[Any, str] = {}

    def take(self, row: Row) -> None:
        status, number = row["status"], row.get("id", len(self._samples) + 1)
        if status not in _ENDED:
            if status not in _OTHERS:
                raise ValueError(status)
            self._open[number] = status
            return
        planned, started, ended = row.get("planned"), float(row["started"]), float(row["ended"])
        record(
            self._samples,
            (None if planned is None else float(planned), started, ended),
            number,
            _error(row.get("error")) if status == "failed" else None,
            _noted(row),
        )
        if self._open:
            self._open.pop(number, None)

    def close(self) -> None:
        for status, count in Counter(self._open.values()).items():
            setattr(self._samples, status, getattr(self._samples, status) + count)


class _Documented:
    """The logs of worker-dispatcher."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def take(self, row: Row) -> None:
        result, number, noted = row["result"], row.get("task_id"), _noted(row)
        record(
            self._samples,
            (None, float(row["started_at"]), float(row["ended_at"])),
            number if type(number) is int else None,
            None if succeeded(result) else _why(result, noted),
            noted,
        )


def _noted(row: Row) -> dict[str, Any] | None:
    metadata = row.get("metadata")
    return metadata if isinstance(metadata, dict) else None


def _error(found: Any) -> tuple[str, str]:
    """The kind of an error, and what it said."""
    if not isinstance(found, dict):
        return "failed", str(found or "")
    return str(found.get("kind") or "failed"), str(found.get("message") or "")


def succeeded(result: Any) -> bool:
    """Whether a call with this result succeeded.

    It did if the result is true, and is no `Response` (of requests, httpx…) with another status
    code than 200; the text of one, as a file holds it, counts like it. What is neither true nor
    false, such as an array, is true.
    """
    try:
        if not result:
            return False
    except Exception:  # noqa: BLE001 - a user's object may raise what it likes
        return True
    return _status_code(result) in {None, 200}


def _status_code(result: Any) -> int | None:
    kind = type(result)
    if kind is str:
        shown = _SHOWN_RESPONSE.fullmatch(result)
        return int(shown[1]) if shown else None
    if kind.__module__ == "builtins" or all(base.__name__ != "Response" for base in kind.__mro__):
        return None
    code = getattr(result, "status_code", None)
    return code if isinstance(code, int) else None


def _why(result: Any, noted: dict[str, Any] | None) -> tuple[str, str]:
    """The kind of an error, and what it said, by the result and the metadata of a call."""
    code = _status_code(result)
    if code is not None:
        return f"HTTP {code}", ""
    error = (noted or {}).get("error")
    if error:
        text = str(error)
        kind = _ERROR_KIND.match(text)
        name = type(error).__name__ if isinstance(error, Exception) else kind and kind[1]
        return name or "failed", text
    return f"returned {result!r:.20}", ""
