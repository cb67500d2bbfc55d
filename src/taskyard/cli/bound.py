"""`taskyard bound`: how much a queue holds."""

from __future__ import annotations

from typing import get_args

import click

from taskyard.bounding import BLOCK_TIMEOUT, OnOverflow, make_bounds
from taskyard.cli.options import broker_option, opened
from taskyard.cli.output import bounds_text

__all__ = ["bound"]


@click.command(short_help="Say how many messages a queue holds.")
@click.argument("queue")
@click.option("--max-length", type=int, metavar="N", help="Messages that wait or are delayed.")
@click.option("--shard-max-length", type=int, metavar="N", help="Messages that wait in a shard.")
@click.option(
    "--overflow",
    type=click.Choice(get_args(OnOverflow)),
    default="raise",
    help="What becomes of more: refused, waited for room, or the oldest are dropped.",
)
@click.option(
    "--block-timeout",
    type=float,
    metavar="SECONDS",
    help=f"How long is waited with --overflow block; {BLOCK_TIMEOUT:g} by default.",
)
@click.option("--none", "lifted", is_flag=True, help="Let it hold any number.")
@click.option("--as-declared", is_flag=True, help="Let hold again what programs declare.")
@broker_option
def bound(
    queue: str,
    max_length: int | None,
    shard_max_length: int | None,
    overflow: OnOverflow,
    block_timeout: float | None,
    lifted: bool,
    as_declared: bool,
    url: str,
) -> None:
    """Say how many messages a queue holds, for all programs at once.

    It wins over what programs declare, until --as-declared. Messages that run, and dead letters,
    do not count; what is there already stays. Dropped messages become dead letters.

    \b
    Examples:
      taskyard bound q1 --max-length 10000
      taskyard bound q1 --max-length 10000 --overflow drop
      taskyard bound q1 --shard-max-length 100 --overflow block --block-timeout 5
      taskyard bound q1 --none
      taskyard bound q1 --as-declared
    """
    lengths = (max_length, shard_max_length) != (None, None)
    if lifted + as_declared + lengths != 1:
        raise click.UsageError(
            "give --max-length or --shard-max-length (or both), or --none, or --as-declared"
        )
    with opened(url) as yard:
        yard.bound(
            queue,
            max_length=max_length,
            shard_max_length=shard_max_length,
            overflow=overflow,
            block_timeout=block_timeout,
            as_declared=as_declared,
        )
    if as_declared:
        click.echo(f"queue {queue} holds what programs declare")
    else:
        bounds = make_bounds(max_length, shard_max_length, overflow, block_timeout)
        click.echo(f"queue {queue} holds {bounds_text(bounds) or 'any number'}")
