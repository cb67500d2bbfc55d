"""Connections for event loops.

Those of redis-py take twice as long for a call, as they read through asyncio's streams. This one
has its socket to itself, so it can also be closed when its loop is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from functools import partial
from typing import Any

import hiredis

from taskyard.brokers.redis.calls import Argument
from taskyard.brokers.redis.connect import (
    CLIENT_NAME,
    pack,
    protocol_mismatch,
    tls_context,
)
from taskyard.brokers.redis.failures import NotRedis, Refusal, refusal
from taskyard.brokers.redis.options import Address, Login, RedisOptions

__all__ = ["AsyncConnection"]

_READ = 1 << 16
_UNFINISHED = object()


class AsyncConnection:
    """A connection for an event loop, with one exchange under way at a time.

    Attributes:
        answered: whether it ever gave a reply.
    """

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._timeout = timeout
        self._tls: _Tls | None = None
        self._parser = hiredis.Reader(
            protocolError=NotRedis, replyError=refusal, notEnoughData=_UNFINISHED
        )
        self._replies: list[Any] = []
        self._wanted = 0
        self._waiter: asyncio.Future[list[Any]] | None = None
        self._error: Exception | None = None

    @classmethod
    async def open(cls, options: RedisOptions, address: Address) -> AsyncConnection:
        """Connect, authenticate and choose the database.

        Raises:
            Refusal: the server wants something else.
            OSError: there is no connection; TimeoutError: in time.
            NotRedis: something else answers there.
            BrokerInaccessible: a file of the TLS options is wrong.
        """
        context = None if options.tls is None else tls_context(options.tls)
        made: AsyncConnection | None = None
        try:
            async with asyncio.timeout(options.timeout):
                made = cls(await _connected(address), options.timeout)
                if context is not None:
                    made._tls = _Tls(context, address.host)
                    await made._tls.shake_hands(made._socket)
                made._loop.add_reader(made._socket, made._readable)
                await made._introduce(options)
        except BaseException as error:
            if made is not None:
                made.close()
            if isinstance(error, OSError):
                loop = asyncio.get_running_loop()
                ask = partial(protocol_mismatch, options, address, error)
                if mismatch := await loop.run_in_executor(None, ask):
                    raise NotRedis(mismatch) from error
            raise
        return made

    async def _introduce(self, options: RedisOptions) -> None:
        commands: list[Sequence[Argument]] = await _credentials(options.login)
        if options.database:
            commands.append(("SELECT", options.database))
        needed = len(commands)
        commands.append(("CLIENT", "SETNAME", CLIENT_NAME))  # an ACL may forbid it
        replies = await self.exchange(b"".join(map(pack, commands)), len(commands))
        for reply in replies[:needed]:
            if isinstance(reply, Refusal):
                raise reply

    async def exchange(self, data: bytes, replies: int) -> list[Any]:
        """Send commands and wait for their replies.

        Arguments:
            data: the packed commands.
            replies: how many replies they have.

        Returns:
            The replies; a `Refusal` in place of an error.

        Raises:
            OSError: the connection failed; TimeoutError: it took too long. It is of no use then.
        """
        if self._error is not None:
            raise self._error
        self._wanted = replies
        waiter: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiter = waiter
        timer = self._loop.call_later(self._timeout, self._fail, TimeoutError("no answer in time"))
        try:
            await self._send(data, waiter)
            return await waiter
        finally:
            timer.cancel()
            self._waiter = None
            if waiter.done() and not waiter.cancelled():
                waiter.exception()  # sending failed first

    async def _send(self, data: bytes, waiter: asyncio.Future[list[Any]]) -> None:
        """Send it, unless the connection ends meanwhile, of which the waiter is told."""
        if self._tls is not None:
            data = self._tls.wrap(data)
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            rest = self._loop.sock_sendall(self._socket, memoryview(data)[sent:])
            sending = self._loop.create_task(rest)
            try:
                await asyncio.wait((sending, waiter), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sending.cancel()
            if sending.done():
                sending.result()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_READ)
            if not data:
                raise ConnectionError("the server closed the connection")
            if self._tls is not None:
                data = self._tls.unwrap(data)
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not _UNFINISHED:
                self._take(reply)
        except (BlockingIOError, InterruptedError):
            return
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self._fail(error)

    def _take(self, reply: Any) -> None:
        if self._waiter is None:
            raise NotRedis("a reply came without a question")
        self._replies.append(reply)
        if len(self._replies) == self._wanted and not self._waiter.done():
            replies, self._replies = self._replies, []
            self._waiter.set_result(replies)

    def close(self) -> None:
        """Drop it, with what may be under way on it; also when its loop is closed."""
        self._fail(ConnectionError("the connection is closed"))

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        if self._socket.fileno() >= 0:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.remove_reader(self._socket)
                self._loop.remove_writer(self._socket)  # of a send that is under way
            self._socket.close()
        if self._waiter is not None and not self._waiter.done():
            with contextlib.suppress(RuntimeError):
                self._waiter.set_exception(error)

    def __del__(self) -> None:
        # A loop that ended without `close` leaves nobody else to do it.
        self._socket.close()


async def _credentials(login: Login) -> list[Sequence[Argument]]:
    if login.provider is not None:
        return [("AUTH", *await login.provider.get_credentials_async())]
    if login.user:
        return [("AUTH", login.user, login.password)]
    return [("AUTH", login.password)] if login.password else []


async def _connected(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    if not address.port:
        return await _reach(loop, socket.AF_UNIX, address.host)
    error: OSError | None = None
    found = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
    for family, _, _, _, place in found:
        try:
            return await _reach(loop, family, place)
        except OSError as failure:
            error = failure
    raise error or OSError(f"{address.host} has no address")


async def _reach(loop: asyncio.AbstractEventLoop, family: int, place: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await loop.sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


class _Tls:
    """Encrypts and decrypts in memory what a socket carries."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    async def shake_hands(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(sock, self._outgoing.read())
                data = await loop.sock_recv(sock, _READ)
                if not data:
                    raise ConnectionError("the server closed the connection") from None
                self._incoming.write(data)
            except ssl.SSLError:
                # The alert that says why.
                with contextlib.suppress(OSError):
                    await loop.sock_sendall(sock, self._outgoing.read())
                raise
            else:
                await loop.sock_sendall(sock, self._outgoing.read())
                return

    def wrap(self, data: bytes) -> bytes:
        self._object.write(data)
        return self._outgoing.read()

    def unwrap(self, data: bytes) -> bytes:
        self._incoming.write(data)
        parts = []
        with contextlib.suppress(ssl.SSLWantReadError):
            while part := self._object.read(_READ):
                parts.append(part)
            raise ConnectionError("the server closed the connection")
        return b"".join(parts)
