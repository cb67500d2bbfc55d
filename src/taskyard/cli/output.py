"""How things look: tables, ages, payloads, and JSON for machines."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from taskyard.brokers.bounds import Bounds

if TYPE_CHECKING:  # rich takes longer to load than most commands take to run
    from rich.console import Console
    from rich.table import Table

    from taskyard.brokers.rate import Rate

__all__ = [
    "age",
    "as_json",
    "bounds_text",
    "console",
    "instant",
    "print_json",
    "printable",
    "rate_text",
    "shorten",
    "size",
    "table",
]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_BUT_BLANKS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
WIDE = 10_000
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))


def console(*, err: bool = False) -> Console:
    """Where to print. What is no terminal gets whole lines, however long they are."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else WIDE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: str = "", cut: str = ""
) -> Table:
    """A table without lines, as other commands print them.

    Arguments:
        columns: the headings.
        rows: the cells; None is shown as a dash.
        right: the headings of columns with numbers, separated by blanks.
        cut: those of columns that are cut where the terminal is too narrow.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    cells = [[Text("-" if cell is None else _cell(cell)) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        widest = max([len(column), *(row[index].cell_len for row in cells)])
        made.add_column(
            column,
            justify="right" if column in right.split() else "left",
            min_width=len(column) if column in cut.split() else widest,
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in cells:
        made.add_row(*row)
    return made


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return printable(str(value))


def printable(text: str, *, lines: bool = False) -> str:
    """A text without what would command the terminal.

    Arguments:
        text: from anywhere.
        lines: whether it may have several lines.
    """
    pattern = _CONTROL_BUT_BLANKS if lines else _CONTROL
    return pattern.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def shorten(text: str, length: int) -> str:
    """A text of one line that is not longer than that."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 3]}..."


def age(seconds: float) -> str:
    """A duration in two figures at most: `3.2s`, `5m 20s`, `2d 4h`."""
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    parts: list[str] = []
    for size, unit in (*_UNITS, (1, "s")):
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def size(count: int) -> str:
    """Bytes for people, in three digits."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g} {units[0]}"


def rate_text(rate: Rate) -> str:
    """A rate limit for people, as messages per seconds."""
    shown = f"{rate.count:g}/{rate.per / 1e6:g}"
    return shown if rate.burst == 1 else f"{shown} burst {rate.burst}"


def bounds_text(bounds: Bounds) -> str:
    """How much a queue holds: `1,000, 10 a shard, drop`; "" if it is not bounded."""
    lengths = [f"{bounds.length:,}"] if bounds.length else []
    lengths += [f"{bounds.shard:,} a shard"] if bounds.shard else []
    return ", ".join([*lengths, str(bounds.overflow)]) if lengths else ""


def instant(micros: int) -> str | None:
    """A moment for machines: ISO 8601 in UTC; None for 0."""
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat() if micros else None


def as_json(value: Any) -> str:
    """Any value as JSON: what JSON does not know becomes a text."""
    try:
        return msgspec.json.encode(value, enc_hook=repr).decode()
    except (TypeError, ValueError, RecursionError):  # keys that are no texts, say
        return msgspec.json.encode(repr(value)).decode()


def print_json(value: Any) -> None:
    """Print a line of JSON."""
    click.echo(as_json(value))
