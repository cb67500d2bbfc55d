"""A cluster, and a master with sentinels, on loopback."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Container
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry
from tests.servers.binaries import Binary
from tests.servers.server import Config, RedisServer, wait_until

__all__ = ["SLOTS", "RedisCluster", "Sentinels"]

SLOTS = 16_384

# Replicas follow at once, where there is no other server to wait for.
REPLICATION: Config = {"repl-diskless-sync": "yes"}


class _Group:
    """Servers that live and end together."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Kill all of them and remove their folders."""
        self._stack.close()


class RedisCluster(_Group):
    """A cluster of one's own; use it with `with`.

    Attributes:
        nodes: all servers: first the masters that it began with, then their replicas, in turn.
        password: of the default user of all, if it has one.

    Arguments:
        masters: how many; each gets an equal part of the slots.
        replicas: of each master.
        binary: what to run; by default the usual server.
        node_timeout: milliseconds after which a silent node is taken for dead. A failover takes
            one or two seconds more.
        appendonly: whether all write an append-only file, with `always`.
        password: for the default user, and between nodes.
        config: more lines for the configuration of each.
    """

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 1,
        *,
        binary: Binary | None = None,
        node_timeout: int = 1000,
        appendonly: bool = False,
        password: str | None = None,
        config: Config | None = None,
    ) -> None:
        super().__init__()
        self.password = password
        self._masters = masters
        self._options: dict[str, Any] = {
            "binary": binary,
            "bus": True,
            "appendonly": appendonly,
            "appendfsync": "always",
            "password": password,
            "config": {
                **REPLICATION,
                "cluster-enabled": "yes",
                "cluster-config-file": "nodes.conf",
                "cluster-node-timeout": node_timeout,
                "cluster-allow-replica-migration": "no",
                # A replica stands for election however long its master has been away.
                "cluster-replica-validity-factor": 0,
                **({"masterauth": password} if password else {}),
                **(config or {}),
            },
        }
        self.nodes: list[RedisServer] = []
        self._count = masters * (1 + replicas)

    def start(self) -> None:
        """Start the nodes, make them a cluster, wait until it serves and replicas are in step."""
        for _ in range(self._count):
            self.nodes.append(self._stack.enter_context(RedisServer(**self._options)))
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters :]
        for index, node in enumerate(masters):
            first, end = (SLOTS * part // len(masters) for part in (index, index + 1))
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
                client.execute_command("CLUSTER", "ADDSLOTS", *range(first, end))
        with masters[0].client() as client:
            for node in self.nodes[1:]:
                client.execute_command("CLUSTER", "MEET", node.host, node.port)
        wait_until(self._all_acquainted, "the nodes of the cluster know each other")
        for index, node in enumerate(replicas):
            with node.client() as client:
                master = self.id_of(masters[index % len(masters)])
                client.execute_command("CLUSTER", "REPLICATE", master)
        self.wait_ok()

    @property
    def url(self) -> str:
        """That of the whole cluster, naming every node."""
        user = f":{self.password}@" if self.password else ""
        return f"redis+cluster://{user}" + ",".join(f"{one.host}:{one.port}" for one in self.nodes)

    def client(self, **options: Any) -> redis.RedisCluster:
        """A client of the cluster. Close it.

        Arguments:
            options: more than it takes to reach it.
        """
        up = [node for node in self.nodes if node.running]
        given: dict[str, Any] = {"password": self.password, "retry": Retry(NoBackoff(), 0)}
        nodes = [redis.cluster.ClusterNode(one.host, one.port) for one in up]
        return redis.RedisCluster(startup_nodes=nodes, **(given | options))

    # Who is who

    def id_of(self, node: RedisServer) -> str:
        """The node's name in the cluster."""
        return next(one.id for one in _members(node) if "myself" in one.flags)

    def master_of(self, slot: int) -> RedisServer:
        """The node that serves a slot now, as it says itself."""
        for node in self._running():
            if any(slot in part for part in _myself(node).slots):
                return node
        raise LookupError(f"no node that runs serves slot {slot}")

    def masters(self) -> list[RedisServer]:
        """The nodes that serve slots, and run."""
        return [node for node in self._running() if _myself(node).slots]

    def replicas_of(self, master: RedisServer) -> list[RedisServer]:
        """The nodes that follow a master, and run."""
        name = self.id_of(master)
        return [node for node in self._running() if _myself(node).master == name]

    # Events

    def set_node_timeout(self, milliseconds: int) -> None:
        """Change after how long a silent node is taken for dead.

        A cluster that begins with a long time takes long to begin.
        """
        for node in self._running():
            with node.client() as client:
                client.config_set("cluster-node-timeout", milliseconds)

    def kill(self, node: RedisServer) -> None:
        """Kill a node with SIGKILL; see `wait_ok` and `wait_failover`."""
        node.kill()

    def wait_failover(self, slot: int, old: RedisServer) -> RedisServer:
        """Wait until another node than `old` serves a slot; returns it."""
        found: list[RedisServer] = []

        def served() -> bool:
            try:
                found[:] = [self.master_of(slot)]
            except LookupError:
                return False
            return found[0] is not old

        wait_until(served, f"another node than the one at port {old.port} serves slot {slot}")
        self.wait_ok(replicas=False)
        return found[0]

    def wait_ok(self, *, replicas: bool = True) -> None:
        """Wait until all nodes that run say that the cluster is whole.

        Arguments:
            replicas: wait also until each replica that runs has its master's data and follows,
                and all nodes agree who they are.
        """

        def whole() -> bool:
            return all(_says_ok(node) for node in self._running())

        def followed() -> bool:
            running = self._running()
            views = [_view(node, {one.port for one in running}) for node in running]
            return all(_follows(node) for node in running) and views.count(views[0]) == len(views)

        wait_until(whole, "the cluster is whole")
        if replicas:
            wait_until(followed, "replicas follow")

    def move_slot(
        self, slot: int, to: RedisServer, *, between: Callable[[str], None] | None = None
    ) -> None:
        """Move a slot with its keys to another master, as resharding does on a live cluster.

        Arguments:
            slot: its number.
            to: its new master.
            between: called between any two steps, with the name of what comes next:
                "importing", "migrating", "keys" (before each lot), "node" (before each node is
                told where the slot is now).
        """
        source = self.master_of(slot)
        if source is to:
            return

        def next_is(step: str) -> None:
            if between is not None:
                between(step)

        with source.client() as here, to.client() as there:
            next_is("importing")
            _set_slot(there, slot, "IMPORTING", self.id_of(source))
            next_is("migrating")
            _set_slot(here, slot, "MIGRATING", self.id_of(to))
            while keys := here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
                next_is("keys")
                auth = ("AUTH", self.password) if self.password else ()
                # (A client that removes one of these keys meanwhile makes the answer NOKEY.)
                here.execute_command(
                    "MIGRATE", to.host, to.port, "", 0, 10_000, *auth, "KEYS", *keys
                )
            target = self.id_of(to)
            others = [one for one in self.masters() if one not in (source, to)]
            for node in (to, source, *others):
                next_is("node")
                with node.client() as client:
                    _set_slot(client, slot, "NODE", target)

    # Inside

    def _running(self) -> list[RedisServer]:
        return [node for node in self.nodes if node.running]

    def _all_acquainted(self) -> bool:
        known = [_members(node) for node in self.nodes]
        return all(
            len(members) == self._count and not any("handshake" in one.flags for one in members)
            for members in known
        )


class _Member(NamedTuple):
    """A line of CLUSTER NODES."""

    id: str
    port: int
    flags: frozenset[str]
    master: str
    slots: tuple[range, ...]


def _members(node: RedisServer) -> list[_Member]:
    """Who is in the cluster, as a node sees it."""
    with node.client(decode_responses=True) as client:
        lines = client.execute_command("CLUSTER", "NODES").splitlines()
    found = []
    for line in lines:
        name, address, flags, master, _, _, _, _, *slots = line.split()
        port = int(address.partition("@")[0].rpartition(":")[2])
        parts = tuple(_range(part) for part in slots if part[0] != "[")  # those are on their way
        found.append(_Member(name, port, frozenset(flags.split(",")), master, parts))
    return found


def _range(part: str) -> range:
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


def _myself(node: RedisServer) -> _Member:
    return next(one for one in _members(node) if "myself" in one.flags)


def _view(node: RedisServer, ports: Container[int]) -> dict[int, tuple[str, tuple[range, ...]]]:
    """What a node thinks of those that listen on these ports: whom they follow, what they serve."""
    return {one.port: (one.master, one.slots) for one in _members(node) if one.port in ports}


def _says_ok(node: RedisServer) -> bool:
    with node.client(decode_responses=True) as client:
        return "cluster_state:ok" in client.execute_command("CLUSTER", "INFO")


def _follows(node: RedisServer) -> bool:
    """Whether it is no replica, or has its master's data and follows."""
    with node.client() as client:
        return bool(client.info("replication").get("master_link_status", "up") == "up")


def _set_slot(client: redis.Redis, slot: int, *how: str) -> None:
    client.execute_command("CLUSTER", "SETSLOT", slot, *how)


class Sentinels(_Group):
    """A master, its replicas, and sentinels that watch them; use it with `with`.

    Attributes:
        name: what the sentinels call the master.
        servers: the master that it began with, then the replicas.
        sentinels: their servers.
        password: of the servers' default user, if it has one.
        sentinel_password: of the sentinels' default user, if it has one.

    Arguments:
        replicas: how many.
        sentinels: how many; more than half of them must agree.
        binary: what to run; by default the usual server.
        down_after: milliseconds after which a silent server is taken for dead.
        appendonly: whether the servers write append-only files, with `always`.
        password: for the servers' default user.
        sentinel_password: for the sentinels' default user.
        config: more lines for the configuration of each server.
    """

    name = "yard"

    def __init__(
        self,
        replicas: int = 1,
        sentinels: int = 3,
        *,
        binary: Binary | None = None,
        down_after: int = 500,
        appendonly: bool = False,
        password: str | None = None,
        sentinel_password: str | None = None,
        config: Config | None = None,
    ) -> None:
        super().__init__()
        self.password = password
        self.sentinel_password = sentinel_password
        self.servers: list[RedisServer] = []
        self.sentinels: list[RedisServer] = []
        self._binary = binary
        self._count = (1 + replicas, sentinels)
        self._down_after = down_after
        self._options: dict[str, Any] = {
            "binary": binary,
            "appendonly": appendonly,
            "appendfsync": "always",
            "password": password,
            "config": {
                **REPLICATION,
                **({"masterauth": password} if password else {}),
                **(config or {}),
            },
        }

    def start(self) -> None:
        """Start all, wait until replicas follow and the sentinels know them and each other."""
        servers, sentinels = self._count
        for _ in range(servers):
            self.servers.append(self._stack.enter_context(RedisServer(**self._options)))
        master = self.servers[0]
        for server in self.servers[1:]:
            with server.client() as client:
                client.replicaof(master.host, master.port)
        wait_until(lambda: all(map(_follows, self.servers)), "the replicas follow")
        for _ in range(sentinels):
            made = RedisServer(
                binary=self._binary,
                mode="--sentinel",
                password=self.sentinel_password,
                config=self._sentinel_config(master),
            )
            self.sentinels.append(self._stack.enter_context(made))
            with contextlib.suppress(ResponseError):  # Redis 6.2 does not know it
                # One that got no processor for two seconds would do nothing for thirty.
                self._ask(made, "DEBUG", "tilt-trigger", "30000")
        wait_until(self._all_acquainted, "the sentinels know each other")

    @property
    def url(self) -> str:
        """That of the master as the sentinels know it."""
        user = f":{self.password}@" if self.password else ""
        hosts = ",".join(f"{one.host}:{one.port}" for one in self.sentinels)
        query = f"?sentinel_password={self.sentinel_password}" if self.sentinel_password else ""
        return f"redis+sentinel://{user}{hosts}/{self.name}/0{query}"

    def master(self) -> RedisServer:
        """The master, as most sentinels see it now."""
        seen = Counter(self._master_port(one) for one in self.sentinels if one.running)
        port = seen.most_common(1)[0][0]
        return next(one for one in self.servers if one.port == port)

    def replicas(self) -> list[RedisServer]:
        """The other servers that run."""
        master = self.master()
        return [one for one in self.servers if one is not master and one.running]

    def wait_failover(self, old: RedisServer) -> RedisServer:
        """Wait until all sentinels name another master than `old`, which serves; returns it."""

        def done() -> bool:
            ports = {self._master_port(one) for one in self.sentinels if one.running}
            if len(ports) != 1 or old.port in ports:
                return False
            with self.master().client() as client:
                return bool(client.role()[0] in ("master", b"master"))

        wait_until(done, f"another master than the one at port {old.port}")
        return self.master()

    # Inside

    def _sentinel_config(self, master: RedisServer) -> Config:
        most = self._count[1] // 2 + 1
        rules = [
            f"monitor {self.name} {master.host} {master.port} {most}",
            f"down-after-milliseconds {self.name} {self._down_after}",
            f"failover-timeout {self.name} 3000",
        ]
        if self.password:
            rules.append(f"auth-pass {self.name} {self.password}")
        own = {}
        if self.sentinel_password:
            rules.append(f"sentinel-pass {self.sentinel_password}")
            own["requirepass"] = self.sentinel_password
        return {"sentinel": rules, **own}

    def _ask(self, sentinel: RedisServer, *command: str) -> Any:
        with sentinel.client(decode_responses=True) as client:
            return client.execute_command("SENTINEL", *command)

    def _master_port(self, sentinel: RedisServer) -> int:
        return int(self._ask(sentinel, "GET-MASTER-ADDR-BY-NAME", self.name)[1])

    def _all_acquainted(self) -> bool:
        servers, sentinels = self._count
        return all(
            len(self._ask(one, "SENTINELS", self.name)) == sentinels - 1
            and len(self._ask(one, "REPLICAS", self.name)) == servers - 1
            for one in self.sentinels
        )
