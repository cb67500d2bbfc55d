"""`taskyard pause`, `resume`, `drain`: what a queue lets through."""

from __future__ import annotations

import click

from taskyard.brokers.lane import Gate
from taskyard.cli.options import broker_option, opened

__all__ = ["drain", "pause", "resume"]


@click.command(short_help="Let workers get no messages of a queue.")
@click.argument("queue")
@broker_option
def pause(queue: str, url: str) -> None:
    """Let workers get no messages of a queue, until it is resumed.

    What runs goes on, and messages can still be added. It holds for all workers at once, and
    through restarts.

    \b
    Examples:
      taskyard pause q1
    """
    with opened(url) as yard:
        before = yard.pause(queue)
    _say(queue, "paused", changed=before is not Gate.PAUSED)


@click.command(short_help="Let no messages into a queue; work off what is there.")
@click.argument("queue")
@broker_option
def drain(queue: str, url: str) -> None:
    """Let no messages into a queue, until it is resumed; workers work off what is there.

    Whoever adds messages gets an error. Batches do not wait to fill. What is retried or delayed is
    still run.

    \b
    Examples:
      taskyard drain q1
    """
    with opened(url) as yard:
        before = yard.drain(queue)
    _say(queue, "draining", changed=before is not Gate.DRAINING)


@click.command(short_help="Open a queue that was paused or is draining.")
@click.argument("queue")
@broker_option
def resume(queue: str, url: str) -> None:
    """Open a queue that was paused or is draining.

    \b
    Examples:
      taskyard resume q1
    """
    with opened(url) as yard:
        before = yard.resume(queue)
    _say(queue, "open", changed=before is not Gate.OPEN)


def _say(queue: str, gate: str, *, changed: bool) -> None:
    click.echo(f"queue {queue} is {gate} now" if changed else f"queue {queue} was {gate} already")
