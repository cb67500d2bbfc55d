"""`taskyard workers`: who works, and telling workers to shut down, pause or resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from taskyard.brokers.workers import Command, RunningCall, WorkerInfo
from taskyard.cli.options import broker_option, json_option, opened, refuse_options
from taskyard.cli.output import age, console, print_json, table

__all__ = ["workers"]

F = TypeVar("F", bound=Callable[..., Any])


@click.group(invoke_without_command=True)
@json_option("JSON objects, a line each.")
@broker_option
@click.pass_context
def workers(ctx: click.Context, url: str, as_json: bool) -> None:
    """Show who works; tell workers to shut down, to pause or to go on.

    \b
    worker    its id, which is that of this run
    pid       its process
    queues    what it serves
    running   calls of handlers that run, of how many at a time
    progress  when it last got or finished something
    state     running, pausing (it takes nothing more; something runs still), paused, stopping;
              silent: it has not been heard of, because it was killed, is stuck, or cannot reach
              the broker. It is forgotten after 15 minutes.

    \b
    With --json, each line is:
      {"id", "host", "pid", "version", "queues": {queue: [task...]}, "slots", "running",
       "calls": [{"task", "id", "messages", "since"}], "state", "paused": [queue...],
       "silent": true or false, "started", "seen", "progress": time or null}

    \b
    Examples:
      taskyard workers
      taskyard workers shutdown web-1:5f3a9c01d2e4
      taskyard workers pause --all --queue mail
      taskyard workers resume --all
    """
    if ctx.invoked_subcommand is not None:
        refuse_options(ctx)
        return
    with opened(url) as yard:
        found = yard.workers()
    if as_json:
        for one in found:
            print_json(_document(one))
    elif found:
        columns = ["worker", "host", "pid", "queues", "running", "progress", "state"]
        now = datetime.now(UTC)
        rows = [_row(one, now) for one in found]
        console().print(table(columns, rows, right="pid running", cut="queues"))
    else:
        click.echo("no workers", err=True)


def _whom(command: F) -> F:
    """Add IDs and `--all`; the command gets `ids`, which is "all" for the latter."""
    for option in (
        click.option("--all", "everybody", is_flag=True, help="All workers of the broker."),
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        command = option(command)
    return command


def _queue_option(command: F) -> F:
    return click.option(
        "-q", "--queue", metavar="NAME", help="Only this queue. [default: all that it serves]"
    )(command)


@workers.command(short_help="Let workers stop as after SIGTERM.")
@_whom
@click.option(
    "-q",
    "--queue",
    metavar="NAME",
    help="Leave only this queue, for good. [default: all that it serves]",
)
@broker_option
def shutdown(ids: Sequence[str], everybody: bool, queue: str | None, url: str) -> None:
    """Let workers stop as after SIGTERM: what runs may end, the rest is given back.

    A process under a supervisor is not replaced; when its last one is shut down, the supervisor
    ends too, with exit code 0. With --queue they take nothing from that queue any more, and stop
    when it was their last one.

    \b
    Examples:
      taskyard workers shutdown web-1:5f3a9c01d2e4
      taskyard workers shutdown --all
    """
    _tell(url, ids, everybody, Command.SHUTDOWN, queue)


@workers.command(short_help="Let workers take no messages for a while.")
@_whom
@_queue_option
@broker_option
def pause(ids: Sequence[str], everybody: bool, queue: str | None, url: str) -> None:
    """Let workers take no messages, until they are resumed; what runs goes on.

    Other workers, and those that are started later, are not concerned. To pause a queue for all:
    `taskyard pause QUEUE`.

    \b
    Examples:
      taskyard workers pause web-1:5f3a9c01d2e4 --queue mail
      taskyard workers pause --all
    """
    _tell(url, ids, everybody, Command.PAUSE, queue)


@workers.command(short_help="Let paused workers go on.")
@_whom
@_queue_option
@broker_option
def resume(ids: Sequence[str], everybody: bool, queue: str | None, url: str) -> None:
    """Let paused workers take messages again.

    \b
    Examples:
      taskyard workers resume web-1:5f3a9c01d2e4 --queue mail
      taskyard workers resume --all
    """
    _tell(url, ids, everybody, Command.RESUME, queue)


def _tell(
    url: str, ids: Sequence[str], everybody: bool, command: Command, queue: str | None
) -> None:
    if bool(ids) is everybody:
        raise click.UsageError("name workers, or give --all" + " instead" * everybody)
    with opened(url) as yard:
        told = yard.tell("all" if everybody else ids, command, queue)
        silent = {one.id for one in yard.workers() if one.silent}
    for id_ in told:
        note = ", but it is silent: it may never hear it" if id_ in silent else ""
        click.echo(f"worker {id_} was told: {command}{f' {queue}' if queue else ''}{note}")
    if not told:
        click.echo("no workers", err=True)


def _row(one: WorkerInfo, now: datetime) -> list[object]:
    return [
        one.id,
        one.host,
        str(one.pid),
        ", ".join(_with_pause(queue, one) for queue in one.queues),
        f"{one.running}/{one.slots}",
        "never" if one.progress is None else f"{_ago(one.progress, now)} ago",
        f"silent for {_ago(one.seen, now)}" if one.silent else one.state,
    ]


def _with_pause(queue: str, one: WorkerInfo) -> str:
    return f"{queue} (paused)" if queue in one.paused else queue


def _ago(moment: datetime, now: datetime) -> str:
    return age((now - moment).total_seconds())


def _document(one: WorkerInfo) -> dict[str, Any]:
    return {
        "id": one.id,
        "host": one.host,
        "pid": one.pid,
        "version": one.version,
        "queues": one.serves,
        "slots": one.slots,
        "running": one.running,
        "calls": [_call(call) for call in one.calls],
        "state": one.state,
        "paused": one.paused,
        "silent": one.silent,
        "started": one.started.isoformat(),
        "seen": one.seen.isoformat(),
        "progress": one.progress.isoformat() if one.progress else None,
    }


def _call(call: RunningCall) -> dict[str, Any]:
    return {
        "task": call.task,
        "id": call.id,
        "messages": call.messages,
        "since": call.since.isoformat(),
    }
