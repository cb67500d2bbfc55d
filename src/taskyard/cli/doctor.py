"""`taskyard doctor`: what a broker promises as it is set up, and what to change."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import click

from taskyard.brokers.urls import open_broker
from taskyard.cli.options import broker_option, json_option
from taskyard.cli.output import print_json, printable

__all__ = ["doctor"]


@click.command(short_help="Tell what can be lost in a broker, and what to change.")
@click.argument("given", metavar="[URL]", required=False)
@json_option("A JSON object.")
@broker_option
def doctor(given: str | None, as_json: bool, url: str) -> None:
    """Examine a broker, and tell what to change.

    It tells what does not work, what can be lost or seen by others, and what to do about it; then
    what is lost at most when something fails. Without URL it examines the broker of --broker.

    Of a Redis it looks at the version, the role, the user's rights, memory and eviction, what is
    written to disk and when, replicas, passwords, the clock, and for keys of other applications
    under the prefix; of a cluster at every master.
    Nothing is changed; to see whether commands are allowed, one key is written for a moment.

    \b
    problem  it does not work, or not much longer
    warning  something can be lost, or seen by others
    note     good to know

    \b
    With --json:
      {"broker": URL, "servers": [{"address", "server", "replicas",
       "findings": [{"level", "subject", "text", "remedy"}], "losses": [{"event", "lost"}]}]}

    Exit code 0: nothing, or notes only. 1: a problem or a warning, or it cannot be examined.

    \b
    Examples:
      taskyard doctor redis://cache.example.org
      taskyard doctor -H cache.example.org --json | jq '.servers[].findings[].text'
    """
    if given is not None:
        _refuse_two()
        url = given
    broker = open_broker(url)  # a wrong URL ends here
    scheme = url.partition(":")[0].lower()
    if scheme == "memory":
        servers = [_memory()]
    elif scheme == "sqlite":
        servers = [_sqlite(url, broker.url)]
    else:
        servers = _redis(url)
    document = {"broker": broker.url, "servers": servers}
    if as_json:
        print_json(document)
    else:
        _print(document)
    if any(each["level"] != "note" for server in servers for each in server["findings"]):
        sys.exit(1)


def _refuse_two() -> None:
    ctx = click.get_current_context()
    for name in ("url", "redis_host", "redis_port", "redis_pass"):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError("give URL, or the options that name a broker, not both")


# What is known of each kind


def _redis(url: str) -> list[dict[str, Any]]:
    from taskyard.brokers.redis import parse_url
    from taskyard.brokers.redis.examination import examine

    return [
        {
            "address": str(report.address),
            "server": report.server,
            "replicas": report.replicas,
            "findings": [finding._asdict() for finding in report.findings],
            "losses": [loss._asdict() for loss in report.losses],
        }
        for report in examine(parse_url(url))
    ]


_LOST_BY_SYNCHRONOUS = {
    "full": "nothing",
    "extra": "nothing",
    "normal": "the last transactions",
    "off": "the last transactions; the file may be damaged",
}


def _sqlite(url: str, address: str) -> dict[str, Any]:
    parts = urlsplit(url)
    synchronous = dict(parse_qsl(parts.query)).get("synchronous", "full").lower()
    findings = []
    if synchronous in ("normal", "off"):
        findings.append(
            {
                "level": "warning",
                "subject": "persistence",
                "text": f"synchronous={synchronous} does not wait for the disk",
                "remedy": "leave it out, unless what is put can be put again",
            }
        )
    return _local(
        address,
        "SQLite, for the processes of one machine",
        findings,
        {
            "a process is killed": "nothing",
            "the machine fails, and its disk survives": _LOST_BY_SYNCHRONOUS[synchronous],
            "the disk is lost": "everything; keep backups",
        },
    )


def _memory() -> dict[str, Any]:
    finding = {
        "level": "warning",
        "subject": "persistence",
        "text": "messages live and end with their process",
        "remedy": "use sqlite:///yard.db, or a Redis, for what must not be lost",
    }
    return _local("memory://", "memory of one process", [finding], {"it ends": "everything"})


def _local(
    address: str, server: str, findings: list[dict[str, str]], losses: dict[str, str]
) -> dict[str, Any]:
    return {
        "address": address,
        "server": server,
        "replicas": 0,
        "findings": findings,
        "losses": [{"event": event, "lost": lost} for event, lost in losses.items()],
    }


# How it looks


def _print(document: dict[str, Any]) -> None:
    for server in document["servers"]:
        replicas = server["replicas"]
        follow = f", {replicas} replica{'s' if replicas > 1 else ''}" if replicas else ""
        _say(f"{server['server']} at {server['address']}{follow}")
        for finding in server["findings"]:
            _say(f"  {finding['level']:<8} {finding['subject']}: {finding['text']}")
            _say(f"           -> {finding['remedy']}")
        if not server["findings"]:
            _say("  nothing to complain of")
        _say("  what can be lost of what was accepted:")
        widest = max(len(loss["event"]) for loss in server["losses"])
        for loss in server["losses"]:
            _say(f"    {loss['event']:<{widest}}  {loss['lost']}")


def _say(text: str) -> None:
    click.echo(printable(text))
