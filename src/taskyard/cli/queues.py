"""`taskyard queues`: what waits, runs and failed, per queue and task."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from taskyard.brokers.base import Counts, Group
from taskyard.brokers.bounds import Bounds
from taskyard.brokers.lane import Flush, Gate
from taskyard.brokers.rate import Limits, Rate, Scope
from taskyard.cli.options import broker_option, json_option, opened
from taskyard.cli.output import (
    age,
    bounds_text,
    console,
    instant,
    print_json,
    rate_text,
    size,
    table,
)
from taskyard.yard import Yard

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["queues", "rates"]

COLUMNS = "queue task waiting delayed running dead shards parked oldest done"
FLUSHES = tuple(map(str, Flush))
Rates = Mapping[Group, float]


@click.command()
@click.option(
    "-w",
    "--watch",
    is_flag=False,
    flag_value=2.0,
    type=click.FloatRange(min=0.1, max=86_400),
    metavar="[SECONDS]",
    help="Look again every 2 seconds, or as often as given, until Ctrl-C; shows rates too.",
)
@json_option("A JSON object; with --watch one per look, a line each.")
@broker_option
def queues(watch: float | None, as_json: bool, url: str) -> None:
    """Show what waits, runs and failed, per queue and task.

    \b
    waiting  messages that wait for a worker, or for their batch to fill
    delayed  messages whose due time, or retry, is yet to come
    running  messages that a worker holds
    dead     dead letters: see `taskyard dead --help`
    shards   shards with messages
    parked   shards that are held until `taskyard release`
    oldest   for how long the oldest waiting message has waited
    limit    how many messages the queue, or a shard, holds: see `taskyard bound --help`
    memory   what the messages take in the server, about (Redis)
    limits   messages per seconds, of the queue (q), the task, or each shard (s), if there are
             any; * set by hand: see `taskyard rate --help`
    done     messages done since the beginning
    rate     messages done per second (with --watch)

    \b
    With --json:
      {"broker": URL, "at": time, "queues": [{"queue", "task", "gate": "open", "paused" or
       "draining", "waiting", "delayed", "running", "dead", "shards", "parked",
       "oldest": time or null, "oldest_seconds": seconds or null,
       "memory": bytes or null,
       "limits": {"queue", "task", "shard": each {"count", "per": seconds, "burst"} or null,
       "changed": which of them were set by hand},
       "bounds": null or {"max_length": number or null, "shard_max_length": number or null,
       "overflow": "raise", "block" or "drop", "block_timeout": seconds or null},
       "totals": {"put", "done", "retried", "dead", "discarded", "redelivered", "lost", ...},
       "flushes": {"size", "bytes", "age", "deadline", "drain"}, "rate": per second or null}]}

    \b
    Examples:
      taskyard queues
      taskyard queues --watch
      taskyard queues --json | jq '.queues[] | select(.dead > 0)'
    """
    with opened(url) as yard:
        if watch is None:
            _show(yard, as_json)
            return
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            _watch(yard, watch, as_json)


def rates(before: Sequence[Counts], after: Sequence[Counts], seconds: float) -> dict[Group, float]:
    """Messages done per second between two looks."""
    done = {counts.group: counts.totals.get("done", 0) for counts in before}
    return {
        counts.group: (counts.totals.get("done", 0) - done.get(counts.group, 0)) / seconds
        for counts in after
    }


def _show(yard: Yard, as_json: bool) -> None:
    counted = yard.counts()
    if as_json:
        print_json(_document(yard, counted, None))
    elif not counted:
        click.echo(f"no queues yet in {yard.broker.url}")
    else:
        console().print(_table(counted, None))


def _watch(yard: Yard, seconds: float, as_json: bool) -> None:
    from rich.live import Live

    screen = console()
    live = screen.is_terminal and not as_json
    before, looked = yard.counts(), time.monotonic()
    found: Rates | None = None
    with Live(console=screen, auto_refresh=False) if live else contextlib.nullcontext() as shown:
        while True:
            if as_json:
                print_json(_document(yard, before, found))
            elif isinstance(shown, Live):
                shown.update(_table(before, found or {}), refresh=True)
            else:
                screen.print(_table(before, found or {}))
            time.sleep(seconds)
            after, now = yard.counts(), time.monotonic()
            found = rates(before, after, now - looked)
            before, looked = after, now


def _table(counted: Sequence[Counts], found: Rates | None) -> Table:
    columns = COLUMNS.split()
    in_memory = any(counts.memory for counts in counted)
    if in_memory:
        columns.insert(columns.index("done"), "memory")
    limited = any(counts.limits != Limits() for counts in counted)
    if limited:
        columns.insert(columns.index("done"), "limits")
    bounded = any(counts.bounds for counts in counted)
    if bounded:
        columns.insert(columns.index("done"), "limit")
    rows: list[list[object]] = []
    for counts in counted:
        waited = _waited(counts)
        rows.append(
            [
                _with_gate(counts),
                counts.group.name,
                counts.waiting,
                counts.delayed,
                counts.running,
                counts.dead,
                counts.lanes,
                counts.parked,
                None if waited is None else age(waited),
                *([size(counts.memory)] if in_memory else ()),
                *([_limits_text(counts.limits)] if limited else ()),
                *([bounds_text(counts.bounds)] if bounded else ()),
                counts.totals.get("done", 0),
            ]
        )
        if found is not None:
            rate = found.get(counts.group)
            rows[-1].append(None if rate is None else f"{rate:,.1f}/s")
    if found is not None:
        columns.append("rate")
    return table(columns, rows, right=" ".join(columns[2:]))


def _with_gate(counts: Counts) -> str:
    shown = "" if counts.gate is Gate.OPEN else f" ({counts.gate})"
    return counts.group.queue + shown


def _limits_text(limits: Limits) -> str:
    signs = {Scope.QUEUE: "q ", Scope.TASK: "", Scope.SHARD: "s "}
    return ", ".join(
        sign + ("none" if rate is None else rate_text(rate)) + "*" * (scope in limits.changed)
        for scope, sign in signs.items()
        if (rate := getattr(limits, scope)) is not None or scope in limits.changed
    )


def _limits_entry(limits: Limits) -> dict[str, Any]:
    rates: dict[str, Rate | None] = {scope: getattr(limits, scope) for scope in Scope}
    shown: dict[str, Any] = {
        scope: rate and {"count": rate.count, "per": rate.per / 1e6, "burst": rate.burst}
        for scope, rate in rates.items()
    }
    return shown | {"changed": sorted(limits.changed)}


def _waited(counts: Counts) -> float | None:
    return max(0.0, time.time() - counts.oldest / 1e6) if counts.oldest else None


def _document(yard: Yard, counted: Sequence[Counts], found: Rates | None) -> dict[str, Any]:
    return {
        "broker": yard.broker.url,
        "at": instant(round(time.time() * 1e6)),
        "queues": [_entry(counts, found or {}) for counts in counted],
    }


def _bounds(bounds: Bounds) -> dict[str, Any] | None:
    if not bounds:
        return None
    return {
        "max_length": bounds.length or None,
        "shard_max_length": bounds.shard or None,
        "overflow": bounds.overflow,
        "block_timeout": bounds.timeout / 1e6 or None,
    }


def _entry(counts: Counts, found: Rates) -> dict[str, Any]:
    flushes = {reason: counts.totals.get(f"flush_{reason}", 0) for reason in FLUSHES}
    return {
        "queue": counts.group.queue,
        "task": counts.group.name,
        "gate": counts.gate,
        "waiting": counts.waiting,
        "delayed": counts.delayed,
        "running": counts.running,
        "dead": counts.dead,
        "shards": counts.lanes,
        "parked": counts.parked,
        "oldest": instant(counts.oldest),
        "oldest_seconds": _waited(counts),
        "memory": counts.memory or None,
        "limits": _limits_entry(counts.limits),
        "bounds": _bounds(counts.bounds),
        "totals": {
            name: count for name, count in counts.totals.items() if not name.startswith("flush_")
        },
        "flushes": flushes,
        "rate": found.get(counts.group),
    }
