"""`taskyard cancel`: cancel messages by their ids."""

from __future__ import annotations

import click

from taskyard.brokers.cancelling import Cancellation, Cancelled
from taskyard.cli.options import broker_option, opened
from taskyard.errors import NotFound

__all__ = ["cancel"]

_SAID = {
    Cancelled.REMOVED: "{id}: removed, it was waiting",
    Cancelled.TOLD: "{id}: told, it is running in {worker}",
    Cancelled.NOTED: "{id}: noted, there is no record of it; if it waits, it is never run",
    Cancelled.ENDED: "{id}: nothing done, it had ended",
}


@click.command(short_help="Cancel messages by their ids.")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@broker_option
def cancel(ids: tuple[str, ...], url: str) -> None:
    """Cancel messages by their ids.

    What waits is removed. Of what runs, the worker is told: it stops by itself, if it can. What
    ended stays as it is; if all of them had, the command fails.

    \b
    Examples:
      taskyard cancel 0h2xkm7q3tvc00001
    """
    with opened(url) as yard:
        done = {id_: yard.cancel(id_) for id_ in ids}
    for id_, cancellation in done.items():
        click.echo(_said(id_, cancellation))
    if all(one.outcome is Cancelled.ENDED for one in done.values()):
        raise NotFound("there was nothing to cancel")


def _said(id_: str, cancellation: Cancellation) -> str:
    return _SAID[cancellation.outcome].format(id=id_, worker=cancellation.worker)
