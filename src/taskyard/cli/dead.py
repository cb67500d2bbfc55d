"""`taskyard dead`: look at dead letters, try them again, or discard them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from taskyard.brokers.base import DeadLetter
from taskyard.cli.options import broker_option, json_option, opened
from taskyard.cli.output import (
    age,
    as_json,
    console,
    instant,
    print_json,
    printable,
    shorten,
    table,
)
from taskyard.message import read_envelope
from taskyard.packing import look
from taskyard.yard import Yard

__all__ = ["dead"]

PAGE = 100
NO_LIMIT = 1 << 62
F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def dead() -> None:
    """Look at dead letters, try them again, or discard them.

    A dead letter is a message that is not tried again: it failed, expired, or took its worker down
    too often. It is kept with the reason, the error and its payload.

    \b
    Examples:
      taskyard dead list --queue q2
      taskyard dead list 17 --full
      taskyard dead retry 17 18
      taskyard dead discard --task save_orders --yes
    """


def _filters(command: F) -> F:
    options = (
        click.argument("numbers", nargs=-1, type=click.IntRange(1, (1 << 63) - 1)),
        click.option("-q", "--queue", help="Only those of this queue."),
        click.option("-t", "--task", help="Only those of this task."),
        click.option("--limit", type=click.IntRange(1, NO_LIMIT), help="So many at most."),
        broker_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@dead.command("list")
@_filters
@click.option("--all", "all_", is_flag=True, help=f"More than {PAGE}, which is the default limit.")
@click.option("--full", is_flag=True, help="With the whole payload and the traceback.")
@json_option("JSON objects, a line each, with payload and traceback.")
def list_(
    numbers: Sequence[int],
    queue: str | None,
    task: str | None,
    limit: int | None,
    url: str,
    all_: bool,
    full: bool,
    as_json: bool,
) -> None:
    """List dead letters, the oldest first.

    \b
    With --json, each line is:
      {"number", "queue", "task", "shard", "priority", "id", "reason",
       "error": {"kind", "message", "traceback"}, "attempts", "deliveries",
       "since": time it was enqueued, "at": time it died,
       "payload": array of the arguments, or null when it cannot be read,
       "not_shown": why it is null: its key or its codec, say; or null}

    Exit code 1 if NUMBERS are given and none of them exists.

    \b
    Examples:
      taskyard dead list
      taskyard dead list 17 --full
      taskyard dead list --all --json | jq .reason | sort | uniq -c
    """
    most = limit or (NO_LIMIT if all_ else PAGE)
    with opened(url) as yard:
        letters = _letters(yard, numbers, queue, task, most)
        if as_json:
            found = _each(letters, lambda letter: print_json(_document(letter)))
        elif full:
            found = _each(letters, _print_full)
        else:
            found = _print_table(letters)
        if not found:
            _say_none(numbers)
        elif found == most:
            click.echo(f"the first {most:,}; --limit or --all shows more", err=True)


@dead.command()
@_filters
@click.option("--all", "all_", is_flag=True, help="All there are.")
def retry(
    numbers: Sequence[int],
    queue: str | None,
    task: str | None,
    limit: int | None,
    url: str,
    all_: bool,
) -> None:
    """Put dead letters back into their queues, as if they were new.

    One stays a dead letter as long as another message holds its unique key.

    Exit code 1 if NUMBERS are given and none of them exists, or can be put back.

    \b
    Examples:
      taskyard dead retry 17 18
      taskyard dead retry --queue q2
      taskyard dead retry --all
    """
    _need_choice(numbers, queue, task, all_)
    with opened(url) as yard:
        count = yard.dead.retry(
            numbers or None, queue=queue, task=task, limit=NO_LIMIT if limit is None else limit
        )
        _say_held(yard, numbers, count)
        _say_done("put back", count, numbers)


@dead.command()
@_filters
@click.option("--all", "all_", is_flag=True, help="All there are.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def discard(
    numbers: Sequence[int],
    queue: str | None,
    task: str | None,
    limit: int | None,
    url: str,
    all_: bool,
    yes: bool,
) -> None:
    """Remove dead letters for good.

    On a terminal it asks before it discards more than the NUMBERS given.

    Exit code 1 if NUMBERS are given and none of them exists.

    \b
    Examples:
      taskyard dead discard 17 18
      taskyard dead discard --queue q2 --yes
    """
    _need_choice(numbers, queue, task, all_)
    with opened(url) as yard:
        if not numbers and not yes and sys.stdin.isatty():
            of = "".join(
                f" of {what} {name}" for what, name in (("queue", queue), ("task", task)) if name
            )
            click.confirm(f"Discard the dead letters{of} for good?", abort=True)
        count = yard.dead.discard(
            numbers or None, queue=queue, task=task, limit=NO_LIMIT if limit is None else limit
        )
        _say_done("discarded", count, numbers)


def _need_choice(numbers: Sequence[int], queue: str | None, task: str | None, all_: bool) -> None:
    if not (numbers or queue or task or all_):
        raise click.UsageError("say which: NUMBERS, --queue, --task or --all")
    if all_ and (numbers or queue or task):
        raise click.UsageError("--all contradicts NUMBERS, --queue and --task")


def _say_held(yard: Yard, numbers: Sequence[int], count: int) -> None:
    """Say which letters were not put back though they are there."""
    held = yard.dead.list(numbers) if count < len(set(numbers)) else []
    if not held:
        return
    shown = ", ".join(str(letter.number) for letter in held[:10])
    click.echo(f"Error: another message holds the unique key of: {shown}", err=True)
    if not count:
        sys.exit(1)


def _say_done(what: str, count: int, numbers: Sequence[int]) -> None:
    if numbers and not count:
        _say_none(numbers)
    of = f" of {len(set(numbers)):,}" if numbers and count < len(set(numbers)) else ""
    click.echo(f"{what} {count:,}{of} dead letter{'' if count == 1 else 's'}")


def _say_none(numbers: Sequence[int]) -> None:
    if numbers:
        shown = ", ".join(map(str, numbers[:10]))
        click.echo(f"Error: there is no such dead letter: {shown}", err=True)
        sys.exit(1)
    click.echo("no dead letters", err=True)


# Showing


def _letters(
    yard: Yard, numbers: Sequence[int], queue: str | None, task: str | None, most: int
) -> Iterator[DeadLetter]:
    after = 0
    while most > 0:
        page = yard.dead.list(
            numbers or None, queue=queue, task=task, after=after, limit=min(PAGE, most)
        )
        yield from page
        if len(page) < PAGE:
            break
        after = page[-1].number
        most -= len(page)


def _each(letters: Iterator[DeadLetter], show: Callable[[DeadLetter], None]) -> int:
    count = 0
    for letter in letters:
        show(letter)
        count += 1
    return count


def _task_of(letter: DeadLetter) -> str:
    return letter.task or letter.group.name


def _age_of(letter: DeadLetter) -> str:
    return age(time.time() - letter.at / 1e6)


def _payload(letter: DeadLetter) -> tuple[Any, str]:
    """Its payload as plain data; or None, and why."""
    envelope = read_envelope(letter.body)
    return (None, "") if envelope is None else look(envelope.payload)


def _payload_text(letter: DeadLetter) -> str:
    payload, why = _payload(letter)
    if why:
        return f"({why})"
    if payload is None:
        return f"(unreadable) {letter.body[:200]!r}"
    one = isinstance(payload, (list, tuple)) and len(payload) == 1
    return as_json(payload[0] if one else payload)


def _print_table(letters: Iterator[DeadLetter]) -> int:
    rows = [
        [
            str(letter.number),
            letter.group.queue,
            _task_of(letter),
            letter.id or None,
            letter.failure.reason,
            shorten(letter.failure.summary(), 60),
            letter.attempts,
            _age_of(letter),
            shorten(_payload_text(letter), 40),
        ]
        for letter in letters
    ]
    if rows:
        columns = "number queue task id reason error attempts age payload"
        console().print(
            table(columns.split(), rows, right="number attempts age", cut="error payload")
        )
    return len(rows)


def _print_full(letter: DeadLetter) -> None:
    failure = letter.failure
    lines = {
        "queue": letter.group.queue,
        "task": _task_of(letter),
        "shard": letter.shard or "-",
        "id": letter.id or "-",
        "priority": letter.priority,
        "attempts": letter.attempts,
        "deliveries": letter.deliveries,
        "enqueued": instant(letter.since) or "-",
        "died": f"{instant(letter.at)} ({_age_of(letter)} ago)",
        "reason": failure.reason,
        "error": failure.summary(),
        "payload": _payload_text(letter),
    }
    click.echo(f"dead letter {letter.number}")
    for name, value in lines.items():
        click.echo(f"  {name + ':':<11} {printable(str(value))}")
    for line in failure.traceback.rstrip().splitlines():
        click.echo(f"    {printable(line)}")
    click.echo()


def _document(letter: DeadLetter) -> dict[str, Any]:
    failure = letter.failure
    payload, why = _payload(letter)
    return {
        "number": letter.number,
        "queue": letter.group.queue,
        "task": _task_of(letter),
        "shard": letter.shard,
        "priority": letter.priority,
        "id": letter.id or None,
        "reason": failure.reason,
        "error": {
            "kind": failure.kind,
            "message": failure.message,
            "traceback": failure.traceback,
        },
        "attempts": letter.attempts,
        "deliveries": letter.deliveries,
        "since": instant(letter.since),
        "at": instant(letter.at),
        "payload": payload,
        "not_shown": why or None,
    }
