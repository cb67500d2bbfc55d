"""`taskyard add`: put JSON values into queues."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, TypeVar

import click
import msgspec

from taskyard.cli.lines import LONGEST, LineTooLong, read_lines
from taskyard.cli.options import broker_option, log_options, opened
from taskyard.cli.output import console, printable, shorten
from taskyard.errors import BrokerError, PayloadError
from taskyard.plain import remote_plain
from taskyard.task import Task
from taskyard.yard import Yard

__all__ = ["add", "add_options", "add_values"]

F = TypeVar("F", bound=Callable[..., Any])

MESSAGES = 500
BYTES = 1 << 20
"""What one transaction holds at most, so that it is known exactly what is stored when one fails."""


def add_options(command: F) -> F:
    """Add what says which messages are added; goes with `add_values`."""
    options = (
        click.option(
            "-t",
            "--task",
            "tasks",
            nargs=2,
            multiple=True,
            metavar="QUEUE JSON",
            help="A queue, and a message for it. Can be given several times.",
        ),
        click.option(
            "-n",
            "--num",
            "number",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Add each message so many times.",
        ),
        click.option(
            "--stdin",
            "queue",
            metavar="QUEUE",
            help="Add a message per line of stdin to this queue; empty lines are skipped.",
        ),
        click.option(
            "--skip-invalid",
            is_flag=True,
            help="With --stdin: skip and count lines that cannot be added, instead of stopping "
            "there.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(short_help="Add messages, each a JSON value, to queues.")
@add_options
@broker_option
@log_options
def add(**options: Any) -> None:
    """Add messages, each a JSON value, to queues that `taskyard start` serves.

    With --stdin, lines are stored as they come, many in a transaction, so there may be millions.
    At a line that is no JSON it stops with exit code 2 and says which: all lines before it are
    stored, none after it.

    \b
    Examples:
      taskyard add -t q1 1 -t q3 '{"a": 2}' -n 5
      taskyard add --stdin q1 < values.jsonl
      tail -f events.jsonl | taskyard add --stdin q1 --skip-invalid
    """
    add_values(**options)


def add_values(
    *,
    tasks: Sequence[tuple[str, str]],
    number: int,
    queue: str | None,
    skip_invalid: bool,
    url: str,
) -> None:
    """Add messages, as a command was told to.

    Arguments:
        tasks: queues, and a JSON value for each.
        number: how many times each is added.
        queue: the queue that gets the lines of stdin, if these are added.
        skip_invalid: whether lines that cannot be added are skipped.
        url: the broker.

    Raises:
        UsageError: there is nothing to add, or a value is wrong.
        TaskyardError: they could not be stored.
    """
    if bool(tasks) == (queue is not None):
        raise click.UsageError("give messages with -t, or a queue with --stdin")
    if queue is None and skip_invalid:
        raise click.UsageError("--skip-invalid needs --stdin")
    if queue is not None and number != 1:
        raise click.UsageError("--num cannot be used with --stdin")
    with opened(url, create=True) as yard:
        if queue is None:
            _add_values(yard, tasks, number)
        else:
            _add_lines(yard, queue, skip_invalid)


class _Invalid(Exception):
    """A text is no value that can be added; says why."""


class _InvalidInput(click.ClickException):
    """A line of stdin cannot be added."""

    exit_code = 2


def _parse(text: str | bytes) -> Any:
    """A JSON value.

    Raises:
        _Invalid: it is none.
    """
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise _Invalid("no JSON that can be read: it is nested too deeply") from None
    except (msgspec.MsgspecError, ValueError) as error:
        shown = text if isinstance(text, str) else text.decode(errors="replace")
        raise _Invalid(f"no JSON: {error}: {printable(shorten(shown, 60))}") from None


def _check(task: Task[..., Any], value: Any) -> None:
    """Find out whether a value can be stored.

    Raises:
        _Invalid: it cannot.
    """
    try:
        task.codec.encode_item("", value)
    except PayloadError as error:
        cause = str(error).removeprefix(f"task {task.name!r}: ").removeprefix("argument 'item': ")
        raise _Invalid(f"a value that cannot be added: {cause}") from None


def _add_values(yard: Yard, tasks: Sequence[tuple[str, str]], number: int) -> None:
    values = []
    for queue, text in tasks:
        task = remote_plain(yard, queue)
        try:
            value = _parse(text)
            _check(task, value)
        except _Invalid as error:
            hint = """; a text needs its quotes, as in '"text"'""" if text.isidentifier() else ""
            raise click.UsageError(f"-t {queue}: {error}{hint}") from None
        values.append((task, value))
    for task, value in values:
        task.enqueue_many(itertools.repeat(value, number))
        click.echo(f"added {number:,} {_messages(number)} to {task.name}")


def _messages(count: int) -> str:
    return "message" if count == 1 else "messages"


# Lines


class _Inlet:
    """Stores lines, many in a transaction."""

    def __init__(self, task: Task[..., Any], *, skip_invalid: bool) -> None:
        self.stored = 0
        self.skipped = 0
        self._task = task
        self._skip_invalid = skip_invalid
        self._values: list[tuple[int, Any]] = []
        self._bytes = 0

    def add(self, number: int, line: bytes) -> None:
        try:
            self._values.append((number, _parse(line)))
        except _Invalid as error:
            if not self._skip_invalid:
                self.flush()
                raise self._refusal(number, error) from None
            self.skipped += 1
            return
        self._bytes += len(line)
        if len(self._values) >= MESSAGES or self._bytes >= BYTES:
            self.flush()

    def flush(self) -> None:
        values, self._values, self._bytes = self._values, [], 0
        try:
            self._store([value for _, value in values])
        except PayloadError:
            self._store_checked(values)

    def _store_checked(self, values: Sequence[tuple[int, Any]]) -> None:
        good: list[Any] = []
        for number, value in values:
            try:
                _check(self._task, value)
            except _Invalid as error:
                if not self._skip_invalid:
                    self._store(good)
                    raise self._refusal(number, error) from None
                self.skipped += 1
            else:
                good.append(value)
        self._store(good)

    def _store(self, values: Sequence[Any]) -> None:
        if not values:
            return
        try:
            self._task.enqueue_many(values)
        except BrokerError as error:
            raise BrokerError(f"{error} ({self.stored:,} messages were stored before)") from error
        self.stored += len(values)

    def _refusal(self, number: int, error: _Invalid) -> _InvalidInput:
        return _InvalidInput(
            f"line {number:,} is {error}\n{self.stored_before_it()} "
            f"(--skip-invalid skips such lines)"
        )

    def stored_before_it(self) -> str:
        return (
            f"{self.stored:,} {_messages(self.stored)} {'was' if self.stored == 1 else 'were'} "
            f"stored, all before that line; nothing behind it was"
        )


def _add_lines(yard: Yard, queue: str, skip_invalid: bool) -> None:
    inlet = _Inlet(remote_plain(yard, queue), skip_invalid=skip_invalid)
    stream = sys.stdin.buffer
    number = 0
    try:
        with _progress(stream, inlet) as advance:
            for line in read_lines(stream):
                if line is None:
                    inlet.flush()
                    continue
                number += 1
                advance(len(line) + 1)
                if line.strip():
                    inlet.add(number, line)
            inlet.flush()
    except LineTooLong:
        inlet.flush()
        raise _InvalidInput(
            f"line {number + 1:,} is longer than {LONGEST >> 20} MB\n{inlet.stored_before_it()}"
        ) from None
    except KeyboardInterrupt:
        inlet.flush()
        click.echo(f"stopped: {_summary(inlet, queue)}", err=True)
        sys.exit(130)
    click.echo(_summary(inlet, queue))


def _summary(inlet: _Inlet, queue: str) -> str:
    text = f"added {inlet.stored:,} {_messages(inlet.stored)} to {queue}"
    return f"{text}, skipped {inlet.skipped:,} invalid lines" if inlet.skipped else text


@contextlib.contextmanager
def _progress(stream: BinaryIO, inlet: _Inlet) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far it is."""
    if not sys.stderr.isatty() or stream.isatty():
        yield _ignore
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.fields[stored]:,} messages"), TimeElapsedColumn()]
    total = _size(stream)
    if total:
        columns += [BarColumn(), TaskProgressColumn()]
    with Progress(*columns, console=console(err=True), transient=True) as progress:
        shown = progress.add_task("add", total=total, stored=0)

        def advance(length: int) -> None:
            progress.update(shown, advance=length, stored=inlet.stored)

        yield advance


def _ignore(length: int) -> None:
    del length


def _size(stream: BinaryIO) -> int | None:
    """The length of the input, where it is a file."""
    try:
        found = os.fstat(stream.fileno())
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
