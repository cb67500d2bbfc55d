"""`taskyard park` and `release`: hold a shard, and let it go on."""

from __future__ import annotations

import click

from taskyard.cli.options import broker_option, opened
from taskyard.errors import NotFound

__all__ = ["group_of", "park", "release"]


@click.command(short_help="Hold a shard until it is released.")
@click.argument("task", metavar="QUEUE/TASK")
@click.argument("shard", default="")
@broker_option
def park(task: str, shard: str, url: str) -> None:
    """Hold a shard until `taskyard release` lets it go on; what runs of it is finished.

    \b
    Examples:
      taskyard park default/notify user-42
    """
    queue, name = group_of(task)
    with opened(url) as yard:
        what = f"shard {shard!r} of {task}" if shard else task
        parked = yard.park(yard.remote(name, queue=queue), shard)
        click.echo(f"parked {what}" if parked else f"{what} was parked already")


@click.command(short_help="Let a parked shard go on.")
@click.argument("task", metavar="QUEUE/TASK")
@click.argument("shard", default="")
@broker_option
def release(task: str, shard: str, url: str) -> None:
    """Let a parked shard go on: the message that parked it is tried again.

    \b
    Examples:
      taskyard release default/notify user-42
    """
    queue, name = group_of(task)
    with opened(url) as yard:
        what = f"shard {shard!r} of {task}" if shard else task
        if not yard.release(yard.remote(name, queue=queue), shard):
            raise NotFound(f"{what} is not parked")
        click.echo(f"released {what}")


def group_of(task: str) -> tuple[str, str]:
    """Queue and name of a task as `taskyard queues` shows it.

    Raises:
        UsageError: it is not QUEUE/TASK.
    """
    queue, slash, name = task.rpartition("/")
    if not slash or not queue or not name:
        raise click.UsageError(f"{task!r}: write QUEUE/TASK, as `taskyard queues` shows them")
    return queue, name
