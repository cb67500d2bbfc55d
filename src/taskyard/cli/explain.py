"""`taskyard explain`: why a message is not running."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from taskyard.brokers.explanation import Explanation, Why
from taskyard.cli.options import broker_option, json_option, opened
from taskyard.cli.output import print_json, printable
from taskyard.message import Failure

__all__ = ["explain"]


@click.command(short_help="Say why a message is not running.")
@click.argument("id_", metavar="ID")
@json_option("A JSON object.")
@broker_option
@click.pass_context
def explain(ctx: click.Context, id_: str, url: str, as_json: bool) -> None:
    """Say why a message is not running; nothing is changed.

    When several things hold it up, the one is told that has to go away first. Exit code 1 if
    nothing is known of the id.

    \b
    With --json:
      {"id", "reason": "done", "cancelled", "discarded", "expired", "dead", "running", "moving",
       "delayed", "retrying", "paused", "parked", "blocked", "busy", "limited", "filling",
       "no worker", "workers paused", "behind", "suspect", "next" or "unknown",
       "text", "queue", "task", "shard", "priority", "until": time or null,
       "since": time or null, "worker", "seen": time or null, "messages", "stopping", "head",
       "limit", "ahead", "ahead_priorities", "shards_ahead", "more", "workers", "attempts",
       "losses", "failure": {"reason", "kind", "message"} or null, "letter", "searched"}

    \b
    Examples:
      taskyard explain 0h2xkm7q3tvc00001
      taskyard explain 0h2xkm7q3tvc00001 --json | jq .until
    """
    with opened(url) as yard:
        found = yard.explain(id_)
    if as_json:
        print_json(_document(found))
    else:
        click.echo(printable(f"{id_}: {found.text}"))
    if found.reason is Why.UNKNOWN:
        ctx.exit(1)


def _document(found: Explanation) -> dict[str, Any]:
    shown = {name: _shown(getattr(found, name)) for name in Explanation.__slots__}
    return {"id": shown.pop("id"), "reason": shown.pop("reason"), "text": found.text, **shown}


def _shown(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Failure):
        return {"reason": value.reason, "kind": value.kind, "message": value.message}
    return value
