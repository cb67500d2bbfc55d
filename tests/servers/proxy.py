"""A TCP proxy that does to connections what networks do."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeAlias, TypeVar

from tests.servers.server import ATTEMPTS, free_port, give_port_back

__all__ = ["Counters", "Direction", "Proxy"]

T = TypeVar("T")

HOST = "127.0.0.1"
PATIENCE = 30.0

Direction: TypeAlias = Literal["request", "reply"]
"""From the client to the server, or back."""

BOTH: tuple[Direction, Direction] = ("request", "reply")


class Counters(NamedTuple):
    """What passed since the proxy was made, or between two of these when subtracted.

    Attributes:
        connections: were accepted.
        request: bytes that came from clients.
        reply: bytes that came from the server.
        round_trips: how often the server answered after a client had spoken.
    """

    connections: int
    request: int
    reply: int
    round_trips: int

    def since(self, before: Counters) -> Counters:
        """The difference."""
        return Counters(*(now - then for now, then in zip(self, before, strict=True)))


class Proxy:
    """Passes connections on to a server, and spoils them when told to. Use it with `with`.

    It runs in a thread of its own. Every method returns when what it says is in force; whatever
    the proxy had taken before then still goes the old way. Bytes that are delayed are not held up
    by one another, so the throughput stays what it is.

    Attributes:
        host: where it listens.
        port: there; the same for its whole life, and taken by no other test while it refuses.

    Arguments:
        target: (host, port), or the path of a Unix socket. It is connected to anew for each
            connection, so the server may be restarted meanwhile.
        delay: seconds that bytes take in each direction.
    """

    def __init__(self, target: tuple[str, int] | str, *, delay: float = 0.0) -> None:
        self.host = HOST
        self.port = 0
        self._target = target
        self._plan = _Plan(delay)
        self._listener: asyncio.Server | None = None
        self._spoilt = threading.Event()
        # Poll and epoll wait in whole milliseconds; that would be half of a delay.
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        for left in reversed(range(ATTEMPTS)):
            self.port = free_port()
            try:
                self._wait(self._listen())
                break
            except OSError:  # another program was faster
                give_port_back(self.port)
                if not left:
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

    def close(self) -> None:
        """Cut everything and listen no more."""
        if self._loop.is_closed():
            return
        self._wait(self._refuse())
        self._wait(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
        give_port_back(self.port)

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    def counters(self) -> Counters:
        """What passed until now."""
        plan = self._plan
        return self._do(
            lambda: Counters(plan.accepted, plan.seen["request"], plan.seen["reply"], plan.trips)
        )

    # Faults. Without a direction they are for both.

    def set_delay(self, seconds: float, direction: Direction | None = None) -> None:
        """Let bytes take that long from now on.

        Arguments:
            seconds: 0 or more.
            direction: of the bytes.
        """
        self._change(lambda plan, one: plan.delay.__setitem__(one, seconds), direction)

    def cut(self, *, reset: bool = False) -> None:
        """Cut all connections there are; new ones are welcome.

        Arguments:
            reset: with RST, which makes errors, rather than with FIN, which makes ends.
        """
        self._wait(self._cut(reset=reset))

    def cut_after(self, count: int, direction: Direction, *, reset: bool = False) -> None:
        """Let some more bytes pass, then cut the connection that they came on. This happens once.

        The bytes up to there arrive on the other side. The server's side is only half-closed, so
        that it still does what it has read; its reply is thrown away.

        Arguments:
            count: bytes from now on, of all connections together; 0: the very next byte does not
                pass.
            direction: which bytes.
            reset: end the client's side with RST rather than with FIN.
        """

        def change(plan: _Plan, one: Direction) -> None:
            plan.cut_at[one] = plan.seen[one] + count
            plan.reset = reset

        self._spoilt.clear()
        self._change(change, direction)

    def wait_cut(self, timeout: float = PATIENCE) -> None:
        """Wait until `cut_after` has cut.

        Raises:
            TimeoutError: it did not within `timeout` seconds.
        """
        if not self._spoilt.wait(timeout):
            raise TimeoutError(f"the proxy cut nothing within {timeout:g} s")

    def half_close(self, direction: Direction) -> None:
        """End one direction of the connections there are; the other goes on."""

        def close() -> None:
            for link in list(self._plan.links):
                link.half_close(direction)

        self._do(close)

    def swallow(self, direction: Direction | None = None) -> None:
        """Let bytes vanish, as on a connection whose other end has lost its power."""
        self._change(lambda plan, one: plan.swallowed.add(one), direction)

    def hold(self, direction: Direction | None = None) -> None:
        """Keep bytes back until `resume`, as a network that stalls."""
        self._change(lambda plan, one: plan.held.add(one), direction)

    def refuse(self, *, cut: bool = True) -> None:
        """Refuse new connections, as where no server is.

        Arguments:
            cut: whether those that stand are cut too.
        """
        self._wait(self._refuse())
        if cut:
            self.cut()

    def resume(self) -> None:
        """Pass everything again: no more faults, and no delay. What was held back goes on."""

        def reset() -> None:
            plan = self._plan
            plan.delay = dict.fromkeys(BOTH, 0.0)
            plan.swallowed.clear()
            plan.held.clear()
            plan.cut_at.clear()
            for link in list(plan.links):
                link.pump()

        self._do(reset)
        self._wait(self._listen())

    # Inside: all state belongs to the loop's thread.

    def _do(self, function: Callable[[], T]) -> T:
        """Call it in the loop and wait until it returns."""

        async def call() -> T:
            return function()

        return self._wait(call())

    def _wait(self, coroutine: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def _change(
        self, change: Callable[[_Plan, Direction], object], direction: Direction | None
    ) -> None:
        def apply() -> None:
            for one in BOTH if direction is None else (direction,):
                change(self._plan, one)

        self._do(apply)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await self._loop.create_server(
                self._link, HOST, self.port, reuse_address=True
            )

    def _link(self) -> _Side | asyncio.Protocol:
        if self._listener is None:  # it was accepted when nobody listened any more
            return _Refusal()
        link = _Link(self._loop, self._plan, self._target, self._spoilt.set)
        return link.client

    async def _refuse(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
            for _ in range(3):  # until those are there that were accepted just before
                await asyncio.sleep(0)

    async def _cut(self, *, reset: bool = False) -> None:
        links = list(self._plan.links)
        for link in links:
            link.cut(reset=reset)
        for link in links:
            await link.gone.wait()


class _Refusal(asyncio.Protocol):
    """Ends a connection as soon as it begins."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class _Plan:
    """What is done to bytes, and what was counted."""

    def __init__(self, delay: float) -> None:
        self.delay: dict[Direction, float] = dict.fromkeys(BOTH, delay)
        self.swallowed: set[Direction] = set()
        self.held: set[Direction] = set()
        self.cut_at: dict[Direction, int] = {}
        self.reset = False
        self.seen: dict[Direction, int] = dict.fromkeys(BOTH, 0)
        self.accepted = 0
        self.trips = 0
        self.links: set[_Link] = set()


class _Side(asyncio.Protocol):
    """One socket of a link. Bytes that come from it go in `direction`."""

    def __init__(self, link: _Link, direction: Direction) -> None:
        self.link = link
        self.direction: Direction = direction
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        connection = transport.get_extra_info("socket")
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport = transport
        self.link.made(self)

    def data_received(self, data: bytes) -> None:
        self.link.take(self.direction, data)

    def eof_received(self) -> bool:
        self.link.ended(self.direction)
        return True  # the other direction may go on

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.link.lost(self)

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def write_eof(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            with contextlib.suppress(OSError):  # the other end has reset it meanwhile
                self.transport.write_eof()

    def close(self, *, reset: bool = False, drop: bool = False) -> None:
        """Close it; what is still to be written is written first, unless `reset` or `drop`."""
        if self.transport is None:
            return
        if reset:
            linger = struct.pack("ii", 1, 0)
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if reset or drop:
            self.transport.abort()
        else:
            self.transport.close()


class _Link:
    """A connection, from a client through the proxy to the server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        plan: _Plan,
        target: tuple[str, int] | str,
        spoilt: Callable[[], None],
    ) -> None:
        self._loop, self._plan, self._target, self._spoilt = loop, plan, target, spoilt
        self.client, self._server = _Side(self, "request"), _Side(self, "reply")
        self._to: dict[Direction, _Side] = {"request": self._server, "reply": self.client}
        # Bytes on their way with the time at which they arrive; None: the end.
        self._lines: dict[Direction, deque[tuple[float, bytes | None]]] = {
            one: deque() for one in BOTH
        }
        self._timers: dict[Direction, asyncio.TimerHandle] = {}
        self._half_closed: set[Direction] = set()
        self._asked = False
        self._over = False  # nothing more is passed on
        self._connecting: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()

    def made(self, side: _Side) -> None:
        if side is self.client:
            self._plan.links.add(self)
            self._plan.accepted += 1
            assert side.transport is not None
            side.transport.pause_reading()  # until there is somewhere for it to go
            self._connecting = self._loop.create_task(self._connect())
            # Not a `finally` of the task: one that is cancelled before it began has none.
            self._connecting.add_done_callback(self._connected)
        elif self.client.transport is not None:
            self.client.transport.resume_reading()

    async def _connect(self) -> None:
        try:
            if isinstance(self._target, str):
                await self._loop.create_unix_connection(lambda: self._server, self._target)
            else:
                await self._loop.create_connection(lambda: self._server, *self._target)
        except OSError:
            self.cut(reset=False)

    def _connected(self, _: asyncio.Task[None]) -> None:
        self._connecting = None
        if self._over:
            self._server.close(drop=True)
        self._forget()

    # The way of bytes

    def take(self, direction: Direction, data: bytes) -> None:
        """Bytes came in."""
        plan = self._plan
        if self._over:
            return
        if direction == "request":
            self._asked = True
        elif self._asked:
            self._asked = False
            plan.trips += 1
        seen = plan.seen[direction]
        plan.seen[direction] = seen + len(data)
        at = plan.cut_at.get(direction)
        if at is not None and plan.seen[direction] >= at:
            del plan.cut_at[direction]
            self._queue(direction, data[: at - seen])
            self._spoil()
        elif direction not in plan.swallowed:
            self._queue(direction, data)

    def ended(self, direction: Direction) -> None:
        """Nothing more comes in."""
        if self._over:
            self._server.close()
        elif direction not in self._plan.swallowed:
            self._queue(direction, None)

    def _queue(self, direction: Direction, data: bytes | None) -> None:
        due = self._loop.time() + self._plan.delay[direction]
        self._lines[direction].append((due, data))
        self._advance(direction)

    def pump(self) -> None:
        """Let arrive what was held back."""
        for direction in BOTH:
            self._advance(direction)

    def _advance(self, direction: Direction) -> None:
        line = self._lines[direction]
        if direction in self._plan.held or direction in self._timers:
            return
        now = self._loop.time()
        while line and line[0][0] <= now:
            self._deliver(direction, line.popleft()[1])
        if line:
            self._timers[direction] = self._loop.call_at(line[0][0], self._timed, direction)

    def _timed(self, direction: Direction) -> None:
        del self._timers[direction]
        self._advance(direction)

    def _deliver(self, direction: Direction, data: bytes | None) -> None:
        if data is None:
            self.half_close(direction)
        else:
            self._to[direction].write(data)

    # Ends

    def half_close(self, direction: Direction) -> None:
        """Nothing more goes this way."""
        self._to[direction].write_eof()
        self._half_closed.add(direction)
        if len(self._half_closed) == len(BOTH):
            self.client.close()
            self._server.close()

    def _spoil(self) -> None:
        """Cut the client off, after what is on its way to it; the server still reads its part."""
        self._stop()
        for direction in BOTH:
            for _, data in self._lines[direction]:
                self._deliver(direction, data)
        self._server.write_eof()
        self.client.close(reset=self._plan.reset)
        self._spoilt()

    def cut(self, *, reset: bool) -> None:
        """Cut both sides off at once."""
        self._stop()
        if self._connecting is not None:
            self._connecting.cancel()
        self.client.close(reset=reset, drop=True)
        self._server.close(reset=reset, drop=True)

    def _stop(self) -> None:
        self._over = True
        for timer in self._timers.values():
            timer.cancel()

    def lost(self, side: _Side) -> None:
        """A socket is gone."""
        if side is self._server:
            self.client.close()
        elif not self._over:
            self._server.close()
        self._forget()

    def _forget(self) -> None:
        sides = (self.client, self._server)
        if self._connecting is None and all(side.transport is None for side in sides):
            self._plan.links.discard(self)
            self.gone.set()
