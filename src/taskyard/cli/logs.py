"""The log: lines of text with the record's fields behind the message, or a JSON object per line."""

from __future__ import annotations

import json
import logging
import logging.handlers
import re
import sys
from datetime import UTC, datetime
from typing import Any

__all__ = ["LEVELS", "JsonFormatter", "TextFormatter", "configure", "formatter_of"]

LEVELS = ("debug", "info", "warning", "error", "critical")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN = re.compile(r'[^\s"=\\]+')
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class TextFormatter(logging.Formatter):
    """`2026-11-20 12:00:00 INFO taskyard.worker the message key=value`, in local time."""

    default_time_format = "%Y-%m-%d %H:%M:%S"
    default_msec_format = None

    def format(self, record: logging.LogRecord) -> str:
        extra = "".join(f" {name}={_value(value)}" for name, value in _fields(record).items())
        line = f"{self.formatTime(record)} {record.levelname} {record.name} {record.getMessage()}"
        if record.exc_info:
            extra += f"\n{self.formatException(record.exc_info).rstrip()}"
        if record.stack_info:
            extra += f"\n{record.stack_info}"
        # Whatever a message or an error says, it cannot look like a record of its own.
        return _CONTROL.sub(_escaped, line + extra).replace("\n", "\n    ")


class JsonFormatter(logging.Formatter):
    """A JSON object per record: time, level, logger, message, process, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info).rstrip()
        if record.stack_info:
            entry["stack"] = record.stack_info
        for name, value in _fields(record).items():
            entry.setdefault(name, value)
        return json.dumps(entry, default=str)


def formatter_of(form: str) -> logging.Formatter:
    """Make what writes a record.

    Arguments:
        form: "text", "json", or a format of Python's `logging`, as in "%(asctime)s %(message)s".

    Raises:
        ValueError: it is none of them.
    """
    if form == "text":
        return TextFormatter()
    if form == "json":
        return JsonFormatter()
    return logging.Formatter(form)


def configure(level: str, file: str | None, form: str) -> None:
    """Send everything that is logged to stderr, or to a file.

    Arguments:
        level: one of `LEVELS`.
        file: its path; None: stderr. Log rotation may move it away, processes may share it.
        form: see `formatter_of`.
    """
    formatter = formatter_of(form)
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if file is not None:
        handler = logging.handlers.WatchedFileHandler(file, encoding="utf-8")
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)  # it tells of selectors


def _value(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")
