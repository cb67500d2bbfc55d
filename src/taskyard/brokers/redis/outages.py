"""Telling of servers that do not answer: once when that begins, and once when it is over."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence

from taskyard.brokers.redis.calls import Call
from taskyard.brokers.redis.failures import is_reply, told
from taskyard.brokers.redis.options import Address

__all__ = ["Outages"]

log = logging.getLogger("taskyard.redis")


class Outages:
    """The outages of a broker, as all who use it in this process met them.

    Attributes:
        any: whether there is one.
    """

    def __init__(self) -> None:
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.any = False
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._met: dict[Address | None, _Outage] = {}
        self._over: dict[Address | None, float] = {}  # when the last one there was

    def begin(
        self,
        address: Address | None,
        error: Exception,
        hope: str,
        calls: Iterable[Call] = (),
        *,
        since: float | None = None,
    ) -> None:
        """Note a failure, and tell of it unless that was done.

        One that is noted late, when the outage that it belongs to is over, is no news.

        Arguments:
            address: who was asked.
            error: what came of it.
            hope: what is done about it.
            calls: those that failed.
            since: when they were tried, by `time.monotonic`.
        """
        if self._pid != os.getpid():  # after a fork somebody else holds the lock
            self._begin_anew()
        with self._lock:
            if since is not None and since < self._over.get(address, since):
                return
            new = address not in self._met
            outage = self._met.setdefault(address, _Outage(refuses=is_reply(error)))
            outage.waiting.update(map(outage.name_of, calls))
            self.any = True
        if new:
            where = "" if address is None else f" at {address}"
            log.warning("Redis%s: %s; %s", where, told(error), hope)

    def answered(self, address: Address, calls: Sequence[Call]) -> None:
        """Note that calls were carried out; tell of it if that was the end of all outages.

        Arguments:
            address: who did it; after a failover this is another one than failed.
            calls: what was asked.
        """
        if self._pid != os.getpid():
            self._begin_anew()
        with self._lock:
            for failed, outage in list(self._met.items()):
                outage.waiting.difference_update(map(outage.name_of, calls))
                if not outage.waiting or (failed == address and not outage.refuses):
                    del self._met[failed]
                    self._over[failed] = time.monotonic()
            over, self.any = self.any and not self._met, bool(self._met)
        if over:
            log.info("Redis at %s answers again", address)


class _Outage:
    """A server that fails.

    Attributes:
        refuses: whether it answers, but does not do what is asked: it may do other things.
        waiting: what failed there and was not carried out since, wherever.
    """

    def __init__(self, *, refuses: bool) -> None:
        self.refuses = refuses
        self.waiting: set[str] = set()

    def name_of(self, call: Call) -> str:
        return f"{call.script.name} {call.tag}" if self.refuses else call.tag
