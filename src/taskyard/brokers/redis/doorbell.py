"""Being woken: one thread and one connection hear for all listeners of a driver.

A script that has news does `PUBLISH <name of a listener> ""`; if nobody received it, nobody listens
there any more, and it wakes another. (On a cluster, what is published on a node reaches the
subscribers of all nodes, but only those of the same one are counted.)

What is published while a connection is down is lost, so whoever may have missed something is woken
as soon as its subscription stands again. Until then it wakes by itself now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import selectors
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import hiredis

from taskyard.brokers.listener import WokenListener
from taskyard.brokers.readable import is_readable
from taskyard.brokers.redis.failures import NotRedis, Refusal, refusal
from taskyard.errors import BrokerError

__all__ = ["BellListener", "Connect", "Connection", "Doorbell", "Tell"]

log = logging.getLogger("taskyard.redis")

SILENCE = 5.0
"""Seconds of silence after which the connection is tested."""
ANSWER = 5.0
"""Seconds that the server may then take to answer."""
POLL = 1.0
"""Seconds between looks of a listener whose subscription does not stand."""
PATIENCE = 0.5
"""Seconds that a new listener waits for its subscription; it may be on an event loop."""
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
"""Seconds, at most, between attempts to connect: the first time, and in the end."""
CLOSING = 1.0
"""Seconds to wait for the thread's end: only an attempt to connect can take longer."""
AT_ONCE = 1000
"""Names in one command."""
READ = 1 << 16
"""Bytes, at most, that are read at once."""

_UNFINISHED = object()


class Connection(Protocol):
    """What is needed of a connection of redis-py."""

    _sock: Any  # the only way to wait for it and for something else at once

    def send_command(self, *words: str) -> object: ...
    def disconnect(self) -> object: ...


Connect: TypeAlias = Callable[[], Connection]
"""Makes a connection that is connected and ready for commands, or raises an error. For a cluster:
to any node, since all of them hear what is published."""

Tell: TypeAlias = Callable[[Exception], str]
"""Says why there is no connection; "": somebody has told of it, and will tell of its end."""

_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class BellListener(WokenListener):
    """A listener that is woken by a message to the channel of its name.

    Attributes:
        standing: whether its subscription stands.
        settled: set as soon as that is known.
        missed: whether something may have been published that it did not receive.

    Arguments:
        name: the channel.
        leave: tells the doorbell that it was closed.
    """

    def __init__(self, name: str, leave: Callable[[str], None]) -> None:
        super().__init__(name)
        self.standing = False
        self.settled = threading.Event()
        self.missed = False
        self._leave = leave

    def await_subscription(self) -> None:
        """Wait until the subscription stands, unless that takes long."""
        if not (self.settled.wait(PATIENCE) and self.standing):
            self.missed = True

    def stands(self) -> None:
        """Note that the subscription stands."""
        self.standing = True
        self.settled.set()
        # In this order: `await_subscription` sets `missed`, then returns.
        if self.missed:
            self.missed = False
            self.wake()

    def fails(self) -> None:
        """Note that there is no subscription for now."""
        stood, self.standing = self.standing, False
        self.missed = True
        self.settled.set()
        if stood:
            self.wake()

    def wait(self, timeout: float) -> bool:
        """See `Listener.wait`."""
        if self.standing:
            return super().wait(timeout)
        return super().wait(min(timeout, POLL)) or self._may_look(timeout)

    async def wait_async(self, timeout: float, also: asyncio.Event | None = None) -> bool:
        """See `Listener.wait_async`."""
        if self.standing:
            return await super().wait_async(timeout, also)
        return await super().wait_async(min(timeout, POLL), also) or self._may_look(timeout)

    def _may_look(self, timeout: float) -> bool:
        return timeout > POLL and not self.closed

    def leave(self) -> None:
        """Tell the doorbell."""
        self._leave(self.name)

    def abandon(self) -> None:
        """Do without the thread that would wake it: after a fork, in the child."""
        self.renew()
        self._leave = lambda _: None
        self.standing = False


class Doorbell:
    """Wakes the listeners of a driver, by one thread that is there while somebody listens.

    It may be used from any thread, again after `close`, and in a child after a fork; listeners do
    not come along into the child.

    Arguments:
        connect: see `Connect`.
        prefix: what the names of its listeners, which are channels, begin with.
        leave: given the name of a listener that was closed, makes the broker forget it and hand
            its wake-up on. It runs in the doorbell's thread, where others wait for it, so it should
            fail soon rather than try for long. A BrokerError of it is ignored.
        tell: puts a failure into words.
        silence: seconds without a sign of life after which the connection is tested.
        answer: seconds after which it is lost if there is no answer.
    """

    def __init__(
        self,
        connect: Connect,
        prefix: str,
        leave: Callable[[str], None],
        tell: Tell,
        *,
        silence: float = SILENCE,
        answer: float = ANSWER,
    ) -> None:
        self._connect = connect
        self._prefix = prefix
        self._leave = leave
        self._tell = tell
        self._patience = _Patience(silence, answer)
        self._lock = threading.Lock()
        self._ringer: _Ringer | None = None
        _doorbells.add(self)

    def listener(self) -> BellListener:
        """Make a listener. What is published to its name from now on wakes it.

        Where the server cannot be reached it is made all the same, and wakes by itself now and
        then until its subscription stands.
        """
        with self._lock:
            if self._ringer is None or not self._ringer.running:
                self._ringer = _Ringer(self._connect, self._leave, self._tell, self._patience)
            name = f"{self._prefix}:wake:{secrets.token_urlsafe(9)}"
            made = BellListener(name, self._ringer.drop)
            self._ringer.add(made)
        made.await_subscription()
        return made

    def close(self) -> None:
        """End the thread and the connection. Open listeners wake by themselves from now on."""
        with self._lock:
            ringer, self._ringer = self._ringer, None
        if ringer is not None:
            ringer.close()

    def abandon(self) -> None:
        """Leave everything to the parent: after a fork, in the child."""
        ringer, self._ringer = self._ringer, None
        self._lock = threading.Lock()
        if ringer is not None:
            ringer.abandon()


class _Patience(NamedTuple):
    """For how many seconds a connection is trusted: see `Doorbell`."""

    silence: float
    answer: float


class _Ringer:
    """The thread, and what others tell it.

    Only the thread uses the connection; others note what is new and poke it.
    """

    def __init__(
        self, connect: Connect, leave: Callable[[str], None], tell: Tell, patience: _Patience
    ) -> None:
        self._connect = connect
        self._leave = leave
        self._words_for = tell
        self._complained = False
        self._patience = patience
        self._listeners: dict[str, BellListener] = {}
        self._news: deque[str] = deque()
        self._line: _Line | None = None
        self._closing = False
        self._ended = False
        self._stood = False
        self._failures = 0
        self._poking = threading.Lock()
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="taskyard-doorbell", daemon=True)
        self._thread.start()

    # For other threads

    @property
    def running(self) -> bool:
        """Whether the thread is there and stays."""
        return not (self._ended or self._closing)

    def add(self, listener: BellListener) -> None:
        """Subscribe for a listener."""
        self._listeners[listener.name] = listener
        self._tell(listener.name)

    def drop(self, name: str) -> None:
        """Unsubscribe, and leave the broker."""
        if self._listeners.pop(name, None) is not None:
            self._tell(name)

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._poke()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSING)

    def abandon(self) -> None:
        """Close what the child of a fork got of its parent's, without a word to the server.

        As long as a copy of the connection is open anywhere, the server counts its subscribers.
        """
        self._ended = True
        for listener in self._listeners.values():
            listener.abandon()
        self._here.close()
        self._there.close()
        if self._line is not None:
            self._line.socket.close()

    def _tell(self, name: str) -> None:
        self._news.append(name)
        self._poke()

    def _poke(self) -> None:
        with self._poking, contextlib.suppress(BlockingIOError):  # one that is full is poked
            if not self._ended:
                self._there.send(b"!")

    # The thread

    def _run(self) -> None:
        try:
            while not self._closing:
                if self._listeners:
                    self._serve()
                else:
                    self._say_goodbyes()
                    self._wait_for_poke(None)
            self._say_goodbyes()
        finally:
            self._end()

    def _serve(self) -> None:
        """Connect, and ring until the connection is lost or the doorbell closed."""
        self._stood = False
        began = time.monotonic()
        try:
            self._line = _Line(self._connect(), self._here, self._patience)
            try:
                self._ring(self._line)
            finally:
                line, self._line = self._line, None
                self._news.extend(line.leaving)
                line.close()
        except Exception as error:  # noqa: BLE001  # whatever it is: nobody may sleep on
            if self._stood and time.monotonic() - began > LONGEST_PAUSE:
                self._failures = 0
            self._failures += 1
            self._note_loss(error)
            self._rest()

    def _ring(self, line: _Line) -> None:
        line.subscribe(list(self._listeners))
        self._follow_news(line)
        while not self._closing:
            ready = line.wait()
            if line.socket in ready:  # first: a message waits for whom this wakes
                for reply in line.replies():
                    self._hear(line, reply)
            if self._here in ready:
                self._take_pokes()
                self._follow_news(line)

    def _follow_news(self, line: _Line) -> None:
        news = self._all_news()
        # Also who was never subscribed: the server confirms that all the same. First, so that
        # they are remembered when the connection is found lost.
        line.unsubscribe([name for name in news if name not in self._listeners])
        line.subscribe(
            [name for name in news if name in self._listeners and name not in line.names]
        )

    def _hear(self, line: _Line, reply: Any) -> None:
        match reply:
            case [b"message", bytes(channel), _]:
                listener = self._listeners.get(channel.decode())
                if listener is not None:
                    listener.wake()
            case [b"subscribe", bytes(channel), _]:
                self._stood = True
                if self._complained:
                    self._complained = False
                    log.info("the server's wake-ups are heard again")
                listener = self._listeners.get(channel.decode())
                if listener is not None:
                    listener.stands()
            case [b"unsubscribe", bytes(channel), _]:
                line.leaving.discard(channel.decode())
                self._say_goodbye(channel.decode())
            case _:  # what answers a PING
                pass

    # Without a connection

    def _note_loss(self, error: Exception) -> None:
        listeners = list(self._listeners.values())
        if self._stood:  # often it stands again at once
            for listener in listeners:
                listener.missed = True
            return
        if self._failures == 1 or any(listener.standing for listener in listeners):
            self._complain(error)
        for listener in listeners:
            listener.fails()

    def _complain(self, error: Exception) -> None:
        words = self._words_for(error)
        if words:
            self._complained = True
            log.warning("no wake-ups from the server, looking now and then instead: %s", words)

    def _rest(self) -> None:
        """Pause before the next attempt to connect, with jitter: many lost the same server."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
        end = time.monotonic() + longest * random.uniform(0.5, 1)
        while self._listeners and not self._closing and (left := end - time.monotonic()) > 0:
            self._wait_for_poke(left)
            self._say_goodbyes()
            if not self._stood:
                for listener in list(self._listeners.values()):
                    listener.fails()

    def _wait_for_poke(self, timeout: float | None) -> None:
        is_readable(self._here.fileno(), timeout)
        self._take_pokes()

    def _take_pokes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._here.recv(4096)

    def _all_news(self) -> list[str]:
        return [self._news.popleft() for _ in range(len(self._news))]

    def _say_goodbyes(self) -> None:
        for name in self._all_news():
            if name not in self._listeners:
                self._say_goodbye(name)

    def _say_goodbye(self, name: str) -> None:
        try:
            self._leave(name)
        except BrokerError as error:
            log.debug("a listener could not leave the server: %s", error)

    def _end(self) -> None:
        with self._poking:
            self._ended = True
            self._here.close()
            self._there.close()
        for listener in list(self._listeners.values()):
            listener.fails()


class _Line:
    """A connection with subscriptions, which finds out when it is dead.

    Attributes:
        socket: the connection's.
        names: the channels that were asked for and not given up.
        leaving: those that were given up, until the server confirms it.

    Arguments:
        connection: what it reads from.
        poke: a socket that ends `wait` too.
        patience: for how long it is trusted.
    """

    def __init__(self, connection: Connection, poke: socket.socket, patience: _Patience) -> None:
        self._connection = connection
        self.socket: socket.socket = connection._sock
        self.names: set[str] = set()
        self.leaving: set[str] = set()
        self._patience = patience
        self._since = time.monotonic()
        self._asked = False
        self._parser = hiredis.Reader(
            protocolError=NotRedis, replyError=refusal, notEnoughData=_UNFINISHED
        )
        self._selector = _Selector()
        self._selector.register(self.socket, selectors.EVENT_READ)
        self._selector.register(poke, selectors.EVENT_READ)

    def subscribe(self, names: Sequence[str]) -> None:
        """Ask for channels."""
        self.names.update(names)
        self._send("SUBSCRIBE", names)

    def unsubscribe(self, names: Sequence[str]) -> None:
        """Give up channels."""
        self.names.difference_update(names)
        self.leaving.update(names)
        self._send("UNSUBSCRIBE", names)

    def _send(self, command: str, names: Sequence[str]) -> None:
        for start in range(0, len(names), AT_ONCE):
            self._connection.send_command(command, *names[start : start + AT_ONCE])
            self._ask()

    def _ask(self) -> None:
        if not self._asked:
            self._asked, self._since = True, time.monotonic()

    def wait(self) -> list[object]:
        """Sleep until there is something to read, or a poke.

        Returns:
            The sockets that there is something to read from.

        Raises:
            TimeoutError: the server does not answer.
        """
        timeout = None
        if self._asked or self.names:
            trusted = self._patience.answer if self._asked else self._patience.silence
            timeout = max(0.0, self._since + trusted - time.monotonic())
        if ready := self._selector.select(timeout):
            return [key.fileobj for key, _ in ready]
        if self._asked:
            raise TimeoutError(f"no answer within {self._patience.answer:g} s")
        self._connection.send_command("PING")
        self._ask()
        return []

    def replies(self) -> Iterator[Any]:
        """What has arrived.

        Raises:
            Refusal: an error.
            OSError: the connection is lost.
            NotRedis: something else answers there.
        """
        # Not through redis-py, which takes twice as long: a message waits for it.
        self._parser.feed(self._received())
        while (reply := self._parser.gets()) is not _UNFINISHED:
            if isinstance(reply, Refusal):
                raise reply
            self._asked, self._since = False, time.monotonic()
            yield reply

    def _received(self) -> bytes:
        if not isinstance(self.socket, ssl.SSLSocket):
            return self._part()
        # It may have more than the selector sees, or nothing: TLS has messages of its own.
        parts, timeout = [], self.socket.gettimeout()
        self.socket.settimeout(0)
        try:
            while True:
                parts.append(self._part())
        except ssl.SSLWantReadError:
            return b"".join(parts)
        finally:
            self.socket.settimeout(timeout)

    def _part(self) -> bytes:
        part = self.socket.recv(READ)
        if not part:
            raise ConnectionError("the server closed the connection")
        return part

    def close(self) -> None:
        """Disconnect."""
        self._selector.close()
        self._connection.disconnect()


_doorbells: weakref.WeakSet[Doorbell] = weakref.WeakSet()


def _after_fork() -> None:
    for doorbell in list(_doorbells):
        doorbell.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
