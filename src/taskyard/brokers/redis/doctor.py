"""What a server's own answers say about it: what can be lost or seen, and what to do about it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from taskyard.brokers.redis.options import Address

__all__ = ["Facts", "Finding", "Level", "Loss", "find", "losses", "server_name", "too_old"]

OLDEST = (6, 2)
SKEW = 1.0
"""Seconds by which clocks may differ without a word."""

Level: TypeAlias = Literal["problem", "warning", "note"]
"""It does not work, or not much longer; something can be lost or seen; good to know."""


class Finding(NamedTuple):
    """Something about a server that its users should know.

    Attributes:
        level: how bad it is.
        subject: in a word or two.
        text: what can be lost, or seen, or does not work.
        remedy: what to do.
    """

    level: Level
    subject: str
    text: str
    remedy: str


class Loss(NamedTuple):
    """What can be lost of what was accepted.

    Attributes:
        event: when this happens.
        lost: what is lost then, at most.
    """

    event: str
    lost: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a server answered.

    Attributes:
        address: where it was asked.
        kind: how the URL calls it: "" for a single server, `sentinel` or `cluster`.
        info: INFO, all sections in one.
        config: settings; None: it did not tell.
        cluster: CLUSTER INFO; empty if it is no part of a cluster, or did not tell.
        open_default: whether the default user needs no password; None: it did not tell.
        has_password: whether it was asked with a password.
        tls: whether it was asked over TLS.
        skew: seconds by which its clock is ahead of this machine's.
        forbidden: what it refused and taskyard needs: commands, keys, channels.
        foreign: keys under the prefix that are another application's.
        user: as whom it was asked.
        wait_replicas: how many replicas puts wait for.
    """

    address: Address
    info: Mapping[str, str]
    kind: str = ""
    config: Mapping[str, str] | None = None
    cluster: Mapping[str, str] = field(default_factory=dict)
    open_default: bool | None = None
    has_password: bool = False
    tls: bool = False
    skew: float = 0.0
    forbidden: Sequence[str] = ()
    foreign: Sequence[str] = ()
    user: str = "default"
    wait_replicas: int = 0

    def number(self, name: str) -> int:
        """A number of INFO; 0 if it is not there."""
        value = self.info.get(name, "")
        return int(value) if value.lstrip("-").isdigit() else 0

    def setting(self, name: str) -> str:
        """A setting; "" if it is not known."""
        return (self.config or {}).get(name, "")

    @property
    def loading(self) -> bool:
        """Whether it still loads its data."""
        return self.info.get("loading") == "1"

    @property
    def replicas(self) -> int:
        """How many replicas follow it."""
        return self.number("connected_slaves")


def server_name(facts: Facts) -> str:
    """What runs there: `Redis 7.0.15`."""
    valkey = facts.info.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {facts.info.get('redis_version', '(unknown)')}"


def find(facts: Facts) -> list[Finding]:
    """Look for what its users should know.

    Arguments:
        facts: what it answered. What it did not tell is not complained of, but said.

    Returns:
        The worst first.
    """
    found = [
        *_about_version(facts),
        *_about_role(facts),
        *_about_commands(facts),
        *_about_keys(facts),
        *_about_memory(facts),
        *_about_persistence(facts),
        *_about_replicas(facts),
        *_about_access(facts),
        *_about_clock(facts),
        *_about_sight(facts),
    ]
    levels: tuple[Level, ...] = ("problem", "warning", "note")
    return sorted(found, key=lambda finding: levels.index(finding.level))


def too_old(facts: Facts) -> Finding | None:
    """Say so if the server is older than taskyard supports."""
    return next(_about_version(facts), None)


def _about_version(facts: Facts) -> Iterator[Finding]:
    version = facts.info.get("redis_version", "")
    parts = [int(part) for part in version.split(".") if part.isdigit()]
    if parts and tuple(parts[:2]) < OLDEST:
        yield Finding(
            "problem",
            "version",
            f"the server is Redis {version}, which lacks commands that taskyard needs",
            "use Redis 6.2 or newer, or Valkey",
        )


def _about_role(facts: Facts) -> Iterator[Finding]:
    if facts.info.get("role") == "slave" and facts.kind != "cluster":
        master = f"{facts.info.get('master_host')}:{facts.info.get('master_port')}"
        yield Finding(
            "problem",
            "role",
            "it is a replica, which takes no writes",
            f"use its master, {master}; redis+sentinel:// finds the master by itself",
        )
    in_cluster = facts.info.get("cluster_enabled") == "1"
    if in_cluster and facts.kind != "cluster":
        yield Finding(
            "problem",
            "cluster",
            "it is a node of a cluster, which serves only a part of the keys",
            "write redis+cluster:// in place of redis://",
        )
    state = facts.cluster.get("cluster_state", "ok")
    if state != "ok":
        yield Finding(
            "problem",
            "cluster",
            f"the cluster's state is {state}: "
            f"{facts.cluster.get('cluster_slots_ok', '?')} of 16384 hash slots are served",
            "see CLUSTER NODES for who is missing, and bring it back",
        )
    if facts.loading:
        yield Finding("problem", "loading", "it still loads its data", "wait, and look again")


def _about_keys(facts: Facts) -> Iterator[Finding]:
    for key in facts.foreign:
        yield Finding(
            "problem",
            "keys",
            f"the key {key} is another application's, and where it is, taskyard cannot work",
            "remove it, or give another prefix, as in ?prefix=shop",
        )


def _about_commands(facts: Facts) -> Iterator[Finding]:
    if facts.forbidden:
        names = ", ".join(sorted(facts.forbidden))
        yield Finding(
            "problem",
            "access",
            f"user {facts.user} may not do what taskyard needs: {names}",
            "allow it with ACL SETUSER; docs/howto/redis.md has the whole rule, under Rights",
        )


def _about_memory(facts: Facts) -> Iterator[Finding]:
    policy = facts.info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        what = (
            "what it remembers of calls and results, so that messages can be stored twice"
            if policy.startswith("volatile-")
            else "waiting messages"
        )
        when = "as soon as maxmemory is set, " if facts.number("maxmemory") == 0 else ""
        yield Finding(
            "warning",
            "eviction",
            f"maxmemory-policy is {policy}: {when}when its memory is full it removes {what}, "
            f"without a word",
            "CONFIG SET maxmemory-policy noeviction; put caches on another server",
        )
    if "maxmemory" in facts.info and facts.number("maxmemory") == 0:
        yield Finding(
            "note",
            "memory",
            "maxmemory is not set: a queue that grows and grows ends with the system killing the "
            "server, rather than with an error for those who put",
            "CONFIG SET maxmemory to some two thirds of the machine's memory",
        )


# Persistence


def _persistence(facts: Facts) -> str:
    """How it keeps its data: "always", "everysec", "no", "snapshots", "none" or "unknown"."""
    if facts.info.get("aof_enabled") == "1":
        return facts.setting("appendfsync") or "unknown"
    if facts.info.get("aof_enabled") != "0" or facts.config is None:
        return "unknown"
    if facts.loading:  # the file that it loads is not yet the one that it writes
        return "unknown"
    return "snapshots" if facts.setting("save") else "none"


_PERSISTENCE = {
    "none": Finding(
        "warning",
        "persistence",
        "it keeps nothing on disk: all messages are lost when it ends, for whatever reason, and "
        "replicas that follow it lose them as it comes back empty",
        "CONFIG SET appendonly yes, and appendfsync always or everysec; write it to redis.conf too",
    ),
    "snapshots": Finding(
        "warning",
        "persistence",
        "it only takes snapshots (save) now and then: what was accepted since the last one is lost "
        "when it ends without a shutdown",
        "CONFIG SET appendonly yes, and appendfsync always or everysec; write it to redis.conf too",
    ),
    "no": Finding(
        "warning",
        "persistence",
        "appendfsync is no: when its machine fails, what the system had not yet written to disk is "
        "lost, usually some 30 seconds",
        "CONFIG SET appendfsync everysec, or always",
    ),
    "everysec": Finding(
        "note",
        "persistence",
        "appendfsync is everysec: when its machine fails, what was accepted in the last one or two "
        "seconds is lost",
        "CONFIG SET appendfsync always, if that matters more than the time of a put",
    ),
}


def _about_persistence(facts: Facts) -> Iterator[Finding]:
    kept = _persistence(facts)
    if kept in _PERSISTENCE:
        yield _PERSISTENCE[kept]
    if kept in ("always", "everysec") and facts.setting("no-appendfsync-on-rewrite") == "yes":
        yield Finding(
            "warning",
            "persistence",
            "no-appendfsync-on-rewrite is yes: while the append-only file is rewritten, and when "
            "the machine fails then, some 30 seconds are lost",
            "CONFIG SET no-appendfsync-on-rewrite no",
        )
    for name, what in (
        ("aof_last_write_status", "writing the append-only file"),
        ("rdb_last_bgsave_status", "saving a snapshot"),
    ):
        if facts.info.get(name, "ok") != "ok":
            yield Finding(
                "problem",
                "persistence",
                f"{what} failed: it may refuse all writes now",
                "see its log; is the disk full?",
            )


# Replication


def _about_replicas(facts: Facts) -> Iterator[Finding]:
    if facts.info.get("role") == "slave":
        return
    if facts.wait_replicas > facts.replicas:
        yield Finding(
            "problem",
            "replicas",
            f"puts wait for {facts.wait_replicas} replicas (wait_replicas), but {facts.replicas} "
            f"follow: every put ends with an error",
            "attach replicas, or lower wait_replicas",
        )
    least = int(facts.setting("min-replicas-to-write") or 0)
    good = facts.number("min_slaves_good_slaves")
    if least > good:
        yield Finding(
            "problem",
            "replicas",
            f"{good} replicas are in step, but min-replicas-to-write is {least}: it refuses all "
            f"writes",
            "bring replicas back, or lower min-replicas-to-write",
        )
    if facts.replicas and facts.kind and not facts.wait_replicas:
        yield Finding(
            "note",
            "replicas",
            "puts do not wait for replicas: a failover loses what had not reached the new master",
            "add wait_replicas=1 to the URL, if that matters more than the time of a put",
        )
    if facts.replicas and facts.kind and not least and facts.config is not None:
        yield Finding(
            "note",
            "replicas",
            "min-replicas-to-write is 0: a master that is cut off from its replicas accepts "
            "messages that are gone when it meets the new master",
            "CONFIG SET min-replicas-to-write 1",
        )


# Access


def _about_access(facts: Facts) -> Iterator[Finding]:
    if _obeys_everybody(facts):
        yield Finding(
            "warning",
            "access",
            "the default user needs no password, and other machines reach it: everybody there can "
            "read and change messages, and run code through a task's arguments",
            "ACL SETUSER default with a password (or requirepass), or bind it to 127.0.0.1",
        )
    if not facts.tls and not _is_local(facts.address.host):
        what = "the password and all messages" if facts.has_password else "all messages"
        yield Finding(
            "note",
            "access",
            f"{what} cross the network in plain text",
            "use rediss://, unless the network is trusted",
        )


def _obeys_everybody(facts: Facts) -> bool:
    is_open = not facts.has_password if facts.open_default is None else facts.open_default
    if not is_open or not facts.address.port:
        return False
    if facts.config is None:
        return not _is_local(facts.address.host)
    bind = facts.setting("bind").replace("-", "").split()
    # Protected mode turns others away, up to 6.2 only where `bind` is left out.
    protected = facts.setting("protected-mode") == "yes"
    if protected and (not bind or _major(facts) >= 7):
        return False
    return not bind or not all(_is_local(host) for host in bind)


def _major(facts: Facts) -> int:
    major = facts.info.get("redis_version", "").partition(".")[0]
    return int(major) if major.isdigit() else 0


def _is_local(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _about_clock(facts: Facts) -> Iterator[Finding]:
    if abs(facts.skew) > SKEW:
        side = "ahead of" if facts.skew > 0 else "behind"
        yield Finding(
            "warning",
            "clock",
            f"its clock is {abs(facts.skew):.1f} s {side} this machine's: what is put for a "
            f"certain time comes that much too {'early' if facts.skew > 0 else 'late'}",
            "let both follow the same time service (NTP)",
        )


def _about_sight(facts: Facts) -> Iterator[Finding]:
    if facts.config is None:
        yield Finding(
            "note",
            "settings",
            "it does not tell its settings (CONFIG GET): whether and when it writes to disk cannot "
            "be seen from here",
            "see what the one who runs it promises, or allow +config|get",
        )


# What can be lost


def losses(facts: Facts) -> list[Loss]:
    """State the loss window: what is lost, of what was accepted, when something fails.

    Arguments:
        facts: what the server answered.
    """
    killed, failed = _LOSSES[_persistence(facts)]
    if _persistence(facts) == "snapshots":
        changes = facts.number("rdb_changes_since_last_save")
        killed = failed = f"{killed} ({changes:,} changes now)"
    found = [
        Loss("the server is killed", killed),
        Loss("its machine fails, and its disk survives", failed),
        Loss("its disk is lost", "what its replicas lack" if facts.replicas else "everything"),
    ]
    if facts.replicas:
        found.append(Loss("a replica takes over", _lost_by_failover(facts)))
    return found


_LOSSES = {
    "always": ("nothing", "nothing"),
    "everysec": (
        "nothing; when the disk was slow, the last two seconds",
        "the last one or two seconds",
    ),
    "no": ("nothing", "what the system had not written yet, usually some 30 seconds"),
    "snapshots": ("all since the last snapshot", "all since the last snapshot"),
    "none": ("everything", "everything"),
    "unknown": ("cannot be seen from here", "cannot be seen from here"),
}


def _lost_by_failover(facts: Facts) -> str:
    if facts.wait_replicas >= facts.replicas:
        return "nothing"
    if facts.wait_replicas:
        return f"nothing, if it is one of the {facts.wait_replicas} that confirmed the last puts"
    return "what had not reached it, usually some milliseconds"
