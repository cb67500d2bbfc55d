"""`taskyard split`: double the partitions of a queue."""

from __future__ import annotations

import time
from typing import Any

import click

from taskyard.cli.options import broker_option, opened
from taskyard.errors import BrokerError
from taskyard.yard import Yard

__all__ = ["split"]

PAUSE = 0.1
"""Seconds after which it is tried again when something must end first."""
TOLD = 2.0
"""Seconds between two lines on how far it is."""


@click.command(short_help="Double the partitions of a queue, while it is in use.")
@click.argument("queue")
@broker_option
def split(queue: str, url: str) -> None:
    """Double the partitions of a queue in Redis, while producers and workers go on.

    Every second shard moves to a new partition, in order; nothing is lost or repeated. A shard of
    an ordered task waits there until its running messages ended. The number cannot be lowered.

    Ctrl-C stops it, and nothing is amiss: run it again to carry it on. Workers carry it on too.

    \b
    Examples:
      taskyard split orders
    """
    with opened(url) as yard:
        if not hasattr(yard.broker, "split"):
            raise BrokerError(
                f"{yard.broker.url} has no partitions, all of it is in one place; a queue can be"
                f" split in Redis: --broker redis://…"
            )
        moved = 0
        try:
            moved, partitions = _follow(yard, yard.broker, queue)
        except KeyboardInterrupt:
            click.echo(f"stopped; `taskyard split {queue}` carries it on", err=True)
            raise
        click.echo(f"{queue} has {partitions} partitions now; {moved:,} messages moved")


def _follow(yard: Yard, broker: Any, queue: str) -> tuple[int, int]:
    """Carry a split on to its end; returns how many messages moved, and the partitions."""
    progress = yard.driver.run(broker.split(queue))
    moved, told = progress.moved, time.monotonic()
    while not progress.done:
        if time.monotonic() - told > TOLD:
            told = time.monotonic()
            click.echo(_told(moved, progress.moved), err=True)
        if not progress.moved:
            time.sleep(PAUSE)
        progress = yard.driver.run(broker.split(queue, progress.partitions))
        moved += progress.moved
    return moved, progress.partitions


def _told(moved: int, lately: int) -> str:
    waits = "" if lately else "; the rest waits for running messages of its shards to end"
    return f"{moved:,} messages moved{waits}"
