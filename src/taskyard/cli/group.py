"""The `taskyard` command, which the others belong to, and what errors look like there."""

from __future__ import annotations

import importlib

import click

from taskyard.cli.output import printable
from taskyard.errors import TaskyardError

__all__ = ["Commands", "taskyard"]


class _Failed(click.ClickException):
    """What went wrong, for people: one line, no traceback of ours."""

    exit_code = 1

    def show(self, file: object = None) -> None:
        """Print it on stderr."""
        del file
        click.echo(f"Error: {printable(self.message, lines=True)}", err=True)


class _Interrupted(click.ClickException):
    """Ctrl-C: nobody has to be told what he did."""

    exit_code = 130
    """What shells give for a program that SIGINT ended."""

    def __init__(self) -> None:
        super().__init__("interrupted")

    def show(self, file: object = None) -> None:
        """End the line on which the terminal shows ^C."""
        del file
        click.echo(err=True)


COMMANDS = {
    "start": "start",
    "add": "add",
    "worker": "worker",
    "workers": "workers",
    "queues": "queues",
    "dead": "dead",
    "schedules": "schedules",
    "pause": "gates",
    "resume": "gates",
    "drain": "gates",
    "rate": "rate",
    "bound": "bound",
    "park": "release",
    "release": "release",
    "cancel": "cancel",
    "explain": "explain",
    "run": "run",
    "report": "report",
    "compare": "compare",
    "split": "split",
    "doctor": "doctor",
}
"""The commands, in the order of the help, and the modules that they are in."""


class Commands(click.Group):
    """A group of commands, whose errors are told in a line."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except TaskyardError as error:
            raise _Failed(str(error) or type(error).__name__) from error
        except KeyboardInterrupt:
            raise _Interrupted from None


class _Lazy(Commands):
    """Loads the command that is asked for, not all of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"taskyard.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="taskyard", message="taskyard %(version)s")
def taskyard() -> None:
    """Tasks in batches, in order, in time, and never lost.

    \b
    Without writing any code:
      taskyard start -t q1 print --batch-size 3     serve queue q1 with print
      taskyard add -t q1 '{"a": 1}' -n 5            add five messages to it
      taskyard queues --watch                       look at what happens
      taskyard dead list                            what failed, and why
      taskyard dead retry --all                     try it again

    \b
    With tasks of your own:
      taskyard worker tasks:yard --processes 4

    Messages wait in the broker that --broker or the environment variable TASKYARD_BROKER names:
    by default the file taskyard.db in the current directory.

    Exit codes: 0: fine. 1: it failed, or what was asked for is not there. 2: wrong usage.
    3: the numbers of a run are not good enough. 130: Ctrl-C.
    """
