"""Waiting for values in an inbox without polling, and without losing one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from taskyard.brokers.inboxes import Lot
from taskyard.brokers.redis.calls import Call, container_key
from taskyard.brokers.redis.connect import pack
from taskyard.brokers.redis.failures import NoAnswer, Refusal, Remedy, final, named_by, remedy
from taskyard.brokers.redis.options import Address, RedisOptions
from taskyard.brokers.redis.stream import AsyncConnection
from taskyard.brokers.redis.topology import directory_for
from taskyard.errors import BrokerError, BrokerUnavailable

__all__ = ["InboxWatch"]

BLOCK = 5.0
"""Seconds for which the server holds an answer back. What somebody left behind is noticed then."""

PASSING = 3
"""How many failures in a row are left to who collects next, which tries again and tells of it."""


class InboxWatch:
    """See `Watch`. It must be used on one event loop.

    A value that comes goes over into a list beside the inbox in the step that wakes the waiting
    (BLMOVE), from where `collect` takes it first: so it is safe if the answer is lost.

    What collects it is sent behind, and carried out as soon as it came.

    Arguments:
        options: where the server is.
        clock: microseconds since 1970, for tests; None: the server's.
        inbox: the name of the list.
        collecting: makes the call that collects; None: it cannot be made yet.
        read: reads its reply.
    """

    def __init__(
        self,
        options: RedisOptions,
        clock: Callable[[], int] | None,
        inbox: str,
        collecting: Callable[[], Call | None],
        read: Callable[[Any], Lot | None],
    ) -> None:
        self._options = replace(options, timeout=options.timeout + BLOCK)
        self._directory = directory_for(options)
        self._tag = inbox
        self._key = container_key(options.prefix, inbox)
        self._clock = clock
        self._collecting = collecting
        self._read = read
        self._connection: AsyncConnection | None = None
        self._address: Address | None = None
        self._failures = 0

    async def wait(self) -> Lot | None:
        """See `Watch.wait`."""
        try:
            if self._connection is None:
                self._connection = await self._connected()
            lot = await self._exchange(self._connection)
            self._failures = 0
            return lot
        except Exception as error:
            self.close()
            if self._redirects(error):
                return None  # whoever collects looks where it is now
            failure = self._failure(error)
            if self._may_pass(error):
                return None
            raise failure from error
        except BaseException:
            self.close()  # an answer is still to come on it
            raise

    async def _exchange(self, connection: AsyncConnection) -> Lot | None:
        data = pack(("BLMOVE", self._tag, f"{self._key}:woken", "RIGHT", "LEFT", BLOCK))
        # What collects must be on the replicas before it is used; the drivers see to that.
        call = None if self._options.wait_replicas else self._collecting()
        if call is not None:
            now = "" if self._clock is None else self._clock()
            data += pack(("EVALSHA", call.script.sha, 1, self._key, "", 0, now, *call.args))
        moved, *rest = await connection.exchange(data, 1 if call is None else 2)
        if isinstance(moved, Refusal):
            raise moved
        # Refused (NOSCRIPT, say), it is tried again by who knows what to do then.
        return self._read(rest[0]) if rest and not isinstance(rest[0], Refusal) else None

    async def _connected(self) -> AsyncConnection:
        self._address = self._directory.find(self._tag)
        if self._address is None:
            await asyncio.get_running_loop().run_in_executor(None, self._directory.look_up)
            self._address = self._directory.find(self._tag)
        if self._address is None:
            raise BrokerUnavailable(f"{self._options.shown}: nobody serves {self._tag}")
        return await AsyncConnection.open(self._options, self._address)

    def _redirects(self, error: Exception) -> bool:
        """Whether the inbox is on another node now, as a cluster's slots move."""
        address = self._address
        if address is None or not isinstance(error, Refusal):
            return False
        if remedy(error) is not Remedy.REDIRECT:
            return False
        return self._directory.redirect(self._tag, named_by(error, address))

    def _may_pass(self, error: Exception) -> bool:
        """Whether it may be over with the next attempt: often just a connection was cut."""
        cause = error.error if isinstance(error, NoAnswer) else error
        if remedy(cause) is Remedy.NONE and not isinstance(cause, BrokerUnavailable):
            return False
        self._failures += 1
        return self._failures <= PASSING

    def _failure(self, error: Exception) -> BrokerError:
        if isinstance(error, NoAnswer):
            return BrokerUnavailable(str(final(error.address, error.error)))
        if self._address is not None:
            # Also if it merely refused: it may be a replica by now.
            self._directory.doubt(self._address)
        if isinstance(error, BrokerError):
            return error
        return BrokerUnavailable(str(final(self._address, error)))

    def close(self) -> None:
        """See `Watch.close`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
