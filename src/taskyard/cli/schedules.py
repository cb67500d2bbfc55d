"""`taskyard schedules`: look at schedules, pause, resume, fire or remove them."""

from __future__ import annotations

import time
from typing import Any

import click

from taskyard.cli.options import broker_option, json_option, opened, refuse_options
from taskyard.cli.output import age, console, print_json, shorten, table
from taskyard.timetable import ScheduleInfo

__all__ = ["schedules"]


@click.group(invoke_without_command=True)
@json_option("JSON objects, a line each.")
@broker_option
@click.pass_context
def schedules(ctx: click.Context, url: str, as_json: bool) -> None:
    """Look at what is run again and again; pause, resume, fire or remove it.

    Workers store what their program declares with `yard.schedule(...)` when they start, and any
    worker does what is due, whoever declared it.

    \b
    Examples:
      taskyard schedules
      taskyard schedules pause nightly-report
      taskyard schedules fire nightly-report
    """
    if ctx.invoked_subcommand is None:
        _list(url, as_json=as_json)
    else:
        refuse_options(ctx)


@schedules.command("list")
@broker_option
@json_option("JSON objects, a line each.")
def list_(url: str, as_json: bool) -> None:
    """List all schedules by name, with their last and next instants; so does `taskyard schedules`.

    \b
    With --json, each line is:
      {"name", "task", "queue", "when", "next", "last", "paused", "catch_up"}
    where "next" and "last" are times, or null.
    """
    _list(url, as_json=as_json)


def _list(url: str, *, as_json: bool) -> None:
    with opened(url) as yard:
        found = yard.schedules.list()
    if as_json:
        for one in found:
            print_json(_document(one))
    elif found:
        columns = ["name", "task", "queue", "when", "next", "last"]
        console().print(table(columns, [_row(one) for one in found], cut="when"))
    else:
        click.echo("no schedules", err=True)


@schedules.command()
@click.argument("name")
@broker_option
def pause(name: str, url: str) -> None:
    """Let a schedule do nothing until it is resumed."""
    with opened(url) as yard:
        _say(name, "paused" if yard.schedules.pause(name) else "was paused already")


@schedules.command()
@click.argument("name")
@broker_option
def resume(name: str, url: str) -> None:
    """Let a schedule go on with its next instant; those of the pause are left out."""
    with opened(url) as yard:
        _say(name, "goes on" if yard.schedules.resume(name) else "was not paused")


@schedules.command()
@click.argument("name")
@broker_option
def fire(name: str, url: str) -> None:
    """Put a schedule's message now; its instants stay as they are."""
    with opened(url) as yard:
        _say(name, f"put message {yard.schedules.fire(name)}")


@schedules.command()
@click.argument("name")
@broker_option
def remove(name: str, url: str) -> None:
    """Remove a schedule. A worker whose program declares it stores it again when it starts."""
    with opened(url) as yard:
        yard.schedules.remove(name)
        _say(name, "removed")


def _say(name: str, what: str) -> None:
    click.echo(f"schedule {name}: {what}")


def _row(one: ScheduleInfo) -> list[object]:
    now = time.time()
    coming = "paused" if one.paused else "never"
    if one.next is not None:
        left = one.next.timestamp() - now
        coming = f"in {age(left)}" if left > 0 else f"due for {age(-left)}"
    last = f"{age(now - one.last.timestamp())} ago" if one.last else None
    return [one.name, one.task or None, one.queue or None, shorten(one.when, 80), coming, last]


def _document(one: ScheduleInfo) -> dict[str, Any]:
    return {
        "name": one.name,
        "task": one.task,
        "queue": one.queue,
        "when": one.when,
        "next": one.next.isoformat() if one.next else None,
        "last": one.last.isoformat() if one.last else None,
        "paused": one.paused,
        "catch_up": one.catch_up,
    }
