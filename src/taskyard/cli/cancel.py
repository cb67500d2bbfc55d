"""`taskyard cancel`: cancel messages by their ids, or one by its unique key."""

from __future__ import annotations

import click

from taskyard.brokers.cancelling import Cancellation, Cancelled
from taskyard.cli.options import broker_option, opened
from taskyard.cli.release import group_of
from taskyard.errors import NotFound
from taskyard.message import checked_id
from taskyard.yard import Yard

__all__ = ["cancel"]

_SAID = {
    Cancelled.REMOVED: "{what}: removed, it was waiting",
    Cancelled.TOLD: "{what}: told, it is running in {worker}",
    Cancelled.NOTED: "{what}: noted, there is no record of it; if it waits, it is never run",
    Cancelled.ENDED: "{what}: nothing done, it had ended",
    Cancelled.UNKNOWN: "{what}: nothing done, nobody holds it",
}


@click.command(short_help="Cancel messages by their ids, or one by its unique key.")
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--key", metavar="KEY", help="Cancel the message that holds this unique key.")
@click.option("--task", metavar="QUEUE/TASK", help="With --key: whose key it is.")
@click.option("--shard", metavar="SHARD", help="With --key: the message's shard, if it has one.")
@click.option("--order", metavar="ORDER", help="With --key: the task's order, if it has one.")
@broker_option
def cancel(
    ids: tuple[str, ...],
    key: str | None,
    task: str | None,
    shard: str | None,
    order: str | None,
    url: str,
) -> None:
    """Cancel messages by their ids, or the one that holds a unique key.

    What waits is removed. Of what runs, the worker is told: it stops by itself, if it can. What
    ended stays as it is; if all of them had, or nobody holds the key, the command fails.

    A key of several arguments is written as a tuple: ("ann",7).

    \b
    Examples:
      taskyard cancel 0h2xkm7q3tvc00001
      taskyard cancel --key a.png --task default/index
    """
    _check(ids, key, (task, shard, order))
    with opened(url) as yard:
        if key is None or task is None:
            done = {id_: yard.cancel(id_) for id_ in ids}
        else:
            done = {f"key {key!r}": _cancel_key(yard, key, task, shard, order)}
    for what, cancellation in done.items():
        click.echo(_SAID[cancellation.outcome].format(what=what, worker=cancellation.worker))
    if all(one.outcome in (Cancelled.ENDED, Cancelled.UNKNOWN) for one in done.values()):
        raise NotFound("there was nothing to cancel")


def _check(ids: tuple[str, ...], key: str | None, whose: tuple[str | None, ...]) -> None:
    if bool(ids) == (key is not None):
        raise click.UsageError("give ids, or a unique key with --key")
    if key is None and any(name is not None for name in whose):
        raise click.UsageError("--task, --shard and --order say whose a key is: give --key")
    if key is not None and whose[0] is None:
        raise click.UsageError("a key belongs to a task: give --task QUEUE/TASK")
    for id_ in ids:
        checked_id(id_)  # before the first one is cancelled


def _cancel_key(
    yard: Yard, key: str, task: str, shard: str | None, order: str | None
) -> Cancellation:
    queue, name = group_of(task)
    found = yard.remote(name, queue=queue, order=order)
    done = found.cancel(unique_key=key, shard=shard or "")
    if done.outcome is Cancelled.UNKNOWN:
        known = [counts.group for counts in yard.counts()]
        if found.group not in known:
            raise NotFound(f"there is no task {task}; `taskyard queues` lists them")
    return done
