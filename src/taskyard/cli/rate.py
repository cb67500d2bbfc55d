"""`taskyard rate`: how many messages are handed out in a time."""

from __future__ import annotations

from typing import Literal

import click

from taskyard.cli.options import broker_option, opened
from taskyard.cli.output import rate_text
from taskyard.policy import RateLimit
from taskyard.task import stored_rate

__all__ = ["rate"]


@click.command(short_help="Limit how many messages are handed out.")
@click.argument("queue")
@click.argument("limit", required=False, metavar="[COUNT/SECONDS]")
@click.option("--task", "-t", help="Only this task of the queue, not the queue as a whole.")
@click.option("--shards", is_flag=True, help="Each shard of the task.")
@click.option(
    "--burst",
    type=click.IntRange(min=1),
    help="How many at once, after a pause. By default what the limit gives in 0.1 s, at least 1.",
)
@click.option("--none", "lift", is_flag=True, help="No limit, whatever is declared.")
@click.option("--declared", is_flag=True, help="What the program declares, from now on.")
@broker_option
def rate(
    queue: str,
    limit: str | None,
    task: str | None,
    shards: bool,
    burst: int | None,
    lift: bool,
    declared: bool,
    url: str,
) -> None:
    """Limit how many messages of a queue, or of a task, are handed out, over all workers.

    It holds at once and through restarts, and wins over what the program declares, until
    --declared. What is over the limit waits, and holds no worker.

    \b
    Examples:
      taskyard rate q1 100/60                       100 a minute
      taskyard rate q1 100/60 --burst 20            20 of them at once
      taskyard rate q1 --task call_api 5/1          only this task: 5 a second
      taskyard rate q1 --task call_api --shards 1/10
      taskyard rate q1 --none
      taskyard rate q1 --declared
    """
    if (limit is not None) + lift + declared != 1:
        raise click.UsageError("give one of COUNT/SECONDS, --none and --declared")
    if burst is not None and limit is None:
        raise click.UsageError("--burst goes with COUNT/SECONDS")
    if shards and task is None:
        raise click.UsageError("--shards is about a task: give --task")
    chosen: RateLimit | Literal["as declared"] | None = "as declared" if declared else None
    if limit is not None:
        chosen = _limit(limit, burst)
    with opened(url) as yard:
        limited = queue if task is None else yard.remote(task, queue=queue)
        yard.rate(limited, chosen, shards=shards)
    what = f"each shard of {queue}/{task}" if shards else f"{queue}/{task}" if task else queue
    click.echo(f"{what}: {_say(chosen)}")


def _limit(given: str, burst: int | None) -> RateLimit:
    count, _, per = given.partition("/")
    try:
        numbers = float(count), float(per)
    except ValueError:
        raise click.UsageError(
            f"{given!r}: write COUNT/SECONDS, as 100/60 for a hundred a minute"
        ) from None
    return RateLimit(*numbers, burst)


def _say(chosen: RateLimit | Literal["as declared"] | None) -> str:
    if not isinstance(chosen, RateLimit):
        return "what is declared holds" if chosen else "no limit"
    return rate_text(stored_rate(chosen))
