"""Which server holds a container of keys."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from redis.crc import key_slot
from redis.exceptions import RedisError

from taskyard.brokers.redis.connect import client, common_error
from taskyard.brokers.redis.failures import NoAnswer, Remedy, remedy
from taskyard.brokers.redis.options import Address, RedisOptions
from taskyard.errors import BrokerInaccessible

__all__ = ["Cluster", "Directory", "Sentinels", "Single", "directory_for"]


class Directory(Protocol):
    """Knows who is responsible for which container. Safe to share between threads."""

    def find(self, tag: str) -> Address | None:
        """Give the server of a container; None: `look_up` has to ask for it first."""
        ...

    def look_up(self) -> None:
        """Find out who is responsible now. This blocks.

        Raises:
            NoAnswer: nobody could be asked, or nobody knows.
        """
        ...

    def doubt(self, address: Address) -> None:
        """Note that a server does not answer, or not as one that is responsible."""
        ...

    def redirect(self, tag: str, address: Address) -> bool:
        """Note that a server named another one for a container; False: that makes no sense."""
        ...

    def everybody(self) -> list[Address]:
        """Give all servers that are known to take part."""
        ...


class Single:
    """One server, whatever happens."""

    def __init__(self, options: RedisOptions) -> None:
        self._address = options.addresses[0]

    def find(self, tag: str) -> Address | None:  # noqa: ARG002
        """See `Directory.find`."""
        return self._address

    def look_up(self) -> None:
        """See `Directory.look_up`."""

    def everybody(self) -> list[Address]:
        """See `Directory.everybody`."""
        return [self._address]

    def doubt(self, address: Address) -> None:
        """See `Directory.doubt`."""

    def redirect(self, tag: str, address: Address) -> bool:  # noqa: ARG002
        """See `Directory.redirect`."""
        return False


class Sentinels:
    """The master that the sentinels name; they are asked again after every failure of it."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self._sentinels = list(options.addresses)
        self._master: Address | None = None
        self._lock = threading.Lock()

    def find(self, tag: str) -> Address | None:  # noqa: ARG002
        """See `Directory.find`."""
        return self._master

    def look_up(self) -> None:
        """See `Directory.look_up`."""
        with self._lock:
            if self._master is None:
                self._master = _ask_each(self._sentinels, self._ask)

    def _ask(self, address: Address) -> Address:
        with client(self._options, address, self._options.sentinel_login, database=0) as sentinel:
            name = self._options.master
            found = sentinel.sentinel_get_master_addr_by_name(name)
        if not found:
            raise BrokerInaccessible(f"the sentinel at {address} knows no master named {name!r}")
        host, port = found
        return Address(host if isinstance(host, str) else host.decode(), int(port))

    def everybody(self) -> list[Address]:
        """See `Directory.everybody`."""
        return [self._master] if self._master is not None else []

    def doubt(self, address: Address) -> None:
        """See `Directory.doubt`."""
        if self._master == address:
            self._master = None

    def redirect(self, tag: str, address: Address) -> bool:  # noqa: ARG002
        """See `Directory.redirect`."""
        return False


class Cluster:
    """The nodes of a cluster by hash slot."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self._slots: dict[int, Address] = {}
        self._seeds = list(options.addresses)
        self._doubted = True
        self._lock = threading.Lock()

    def find(self, tag: str) -> Address | None:
        """See `Directory.find`."""
        if self._doubted:
            return None
        found = self._slots.get(key_slot(tag.encode()))
        self._doubted = found is None
        return found

    def look_up(self) -> None:
        """See `Directory.look_up`."""
        with self._lock:
            if not self._doubted:  # somebody else was faster
                return
            self._slots = _ask_each(self._seeds, self._ask)
            known = sorted(set(self._slots.values()))
            self._seeds = [*known, *(seed for seed in self._options.addresses if seed not in known)]
            self._doubted = False

    def _ask(self, address: Address) -> dict[int, Address]:
        # NodesManager of redis-py asks the same, but does not let on why a node refused.
        with client(self._options, address, database=0) as node:
            found: Any = node.execute_command("CLUSTER SLOTS")
        slots: dict[int, Address] = {}
        for first, last, (host, port, *_), *_ in found:
            # A node that knows no name of its own means: the one under which it was asked.
            master = Address(host.decode() if host else address.host, int(port))
            slots.update(dict.fromkeys(range(first, last + 1), master))
        return slots

    def everybody(self) -> list[Address]:
        """See `Directory.everybody`."""
        return list(self._seeds)

    def doubt(self, address: Address) -> None:
        """See `Directory.doubt`."""
        # Whoever failed is asked last.
        self._seeds.sort(key=lambda seed: seed == address)
        self._doubted = True

    def redirect(self, tag: str, address: Address) -> bool:
        """See `Directory.redirect`."""
        self._slots[key_slot(tag.encode())] = address
        return True


def directory_for(options: RedisOptions) -> Directory:
    """Make the directory of a server, of sentinels, or of a cluster."""
    kinds: dict[str, Callable[[RedisOptions], Directory]] = {
        "": Single,
        "sentinel": Sentinels,
        "cluster": Cluster,
    }
    return kinds[options.kind](options)


def _ask_each(addresses: list[Address], ask: Callable[[Address], Any]) -> Any:
    worst: NoAnswer | None = None
    for address in list(addresses):
        try:
            answer = ask(address)
        except (RedisError, OSError, BrokerInaccessible) as failure:
            error = common_error(failure)
            # What somebody has to mend is worth more than that another one is away.
            if worst is None or remedy(error) is Remedy.NONE:
                worst = NoAnswer(address, error)
        else:
            addresses.sort(key=lambda other: other != address)
            return answer
    raise worst or BrokerInaccessible("there is nobody to ask where Redis is")
