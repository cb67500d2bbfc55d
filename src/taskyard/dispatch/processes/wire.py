"""What goes between the parent and a worker process: frames on a socket, columns in a frame."""

from __future__ import annotations

import contextlib
import io
import pickle
import select
import socket
import struct
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from taskyard.dispatch.outcome import CallError

__all__ = [
    "Broken",
    "Line",
    "Reader",
    "doubles",
    "dump",
    "dump_whole",
    "is_readable",
    "longs",
    "pack",
    "pack_error",
    "send",
    "unpack",
    "unpack_error",
]

_HEAD = struct.Struct("<Q")
_JOINED = 65_536
"""Bytes up to which a frame is sent in one piece, copied once more."""
_PIECE = 1_048_576

# Values


class Broken:
    """A value that could not be pickled, or not be unpickled.

    Attributes:
        error: why.
    """

    __slots__ = ("error",)

    def __init__(self, error: CallError) -> None:
        self.error = error


class _Watching(pickle.Pickler):
    """Notices whether what it pickles is all of Python's own kinds, so that it can be unpickled."""

    foreign = False

    def reducer_override(self, value: Any) -> Any:  # noqa: ARG002 - as pickle calls it
        """Called for what is not one of them."""
        self.foreign = True
        return NotImplemented


def dump(value: Any) -> bytes:
    """Pickle something of our own."""
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def dump_whole(value: Any) -> bytes:
    """Pickle something with the code of functions and classes that cannot be imported by name.

    Raises:
        ImportError: cloudpickle is not installed.
    """
    pickled: bytes = import_module("cloudpickle").dumps(value, pickle.HIGHEST_PROTOCOL)
    return pickled


def pack(
    values: Sequence[Any], what: str, *, whole: bool = False
) -> bytes | list[bytes | CallError]:
    """Pickle many values, so that one that cannot be pickled spoils no other.

    Values of Python's own kinds are pickled together. Others are pickled one by one, as each may
    fail also where it is unpickled.

    Arguments:
        values: they.
        what: what they are, for an error: "the result", "the item".
        whole: whether what is of the main module takes its class along, as that module cannot be
            imported where they go to.
    """
    buffer = io.BytesIO()
    pickler = _Watching(buffer, pickle.HIGHEST_PROTOCOL)
    try:
        pickler.dump(values)
    except BaseException:  # noqa: BLE001 - whatever a class's __reduce__ does; each is tried below
        pickler.foreign = True
    if not pickler.foreign:
        return buffer.getvalue()
    return [_pack_one(value, what, whole) for value in values]


def _pack_one(value: Any, what: str, whole: bool) -> bytes | CallError:
    try:
        data = dump(value)
        if whole and b"__main__" in data:
            with contextlib.suppress(Exception):  # then by its name, which may do
                return dump_whole(value)
        return data
    except BaseException as error:  # noqa: BLE001 - whatever a class's __reduce__ does
        first = error
    try:
        return dump_whole(value)
    except BaseException:  # noqa: BLE001 - as above, or it is not installed
        return _refusal(first, f"{what}, a {type(value).__qualname__}, cannot be pickled")


def unpack(packed: bytes | list[bytes | CallError], what: str) -> list[Any]:
    """Get values back; a `Broken` stands for one that cannot be had."""
    if isinstance(packed, bytes):
        values: list[Any] = pickle.loads(packed)  # noqa: S301 - it comes from our own process
        return values
    return [_unpack_one(one, what) for one in packed]


def _unpack_one(packed: bytes | CallError, what: str) -> Any:
    if isinstance(packed, CallError):
        return Broken(packed)
    try:
        return pickle.loads(packed)  # noqa: S301 - it comes from our own process
    except BaseException as error:  # noqa: BLE001 - whatever a class does
        return Broken(_refusal(error, f"{what} cannot be unpickled"))


def _refusal(error: BaseException, text: str) -> CallError:
    return CallError("PicklingError", f"{text}: {type(error).__name__}: {error}")


def pack_error(error: CallError) -> tuple[str, str, str, bytes | None]:
    """An error for another process; with its exception, if that can be pickled."""
    packed = None
    if error.exception is not None:
        try:
            packed = dump(error.exception)
        except BaseException:  # noqa: BLE001 - whatever a class does; kind and text are there
            packed = None
    return (error.kind, error.message, error.stack, packed)


def unpack_error(told: tuple[str, str, str, bytes | None]) -> CallError:
    """Get an error back; with its exception, if that can be unpickled here."""
    kind, message, stack, packed = told
    exception = None
    if packed is not None:
        try:
            exception = pickle.loads(packed)  # noqa: S301 - it comes from our own process
        except BaseException:  # noqa: BLE001 - whatever a class does; kind and text are there
            exception = None
    if not isinstance(exception, BaseException):
        exception = None
    return CallError(kind, message, stack, exception)


def doubles(data: bytes) -> array[float]:
    """A column of instants from its bytes."""
    made = array("d")
    made.frombytes(data)
    return made


def longs(data: bytes) -> array[int]:
    """A column of numbers from its bytes."""
    made = array("q")
    made.frombytes(data)
    return made


# Frames


def is_readable(sock: socket.socket, seconds: float) -> bool:
    """Wait until there is something to read, or the other end is gone; at most so long."""
    waiting = select.poll()  # unlike select, it takes descriptors of any number
    waiting.register(sock, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def send(sock: socket.socket, data: bytes) -> None:
    """Send a frame, waiting until it is taken."""
    if len(data) <= _JOINED:
        sock.sendall(_HEAD.pack(len(data)) + data)
    else:
        sock.sendall(_HEAD.pack(len(data)))
        sock.sendall(data)


class Reader:
    """Takes frames from a socket, waiting for each."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def read(self) -> Any:
        """The next one's content; None: there will be none."""
        head = self._exactly(_HEAD.size)
        if head is None:
            return None
        body = self._exactly(_HEAD.unpack(head)[0])
        return None if body is None else pickle.loads(body)  # noqa: S301 - from our own process

    def _exactly(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            read = self._sock.recv_into(view[got:])
            if not read:
                return None
            got += read
        return data


class Line:
    """The parent's end of a socket: never waits, in neither direction.

    Attributes:
        sock: the socket.
        ended: whether the other end is gone.
        backlog: whether something is still to be sent, when the socket takes more.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.ended = False
        self._out: deque[memoryview] = deque()
        self._in = bytearray()
        self._missing = 0  # bytes of the frame that has begun to come
        self._blocked = False

    @property
    def backlog(self) -> bool:
        """Whether something waits until the socket takes more."""
        return bool(self._out)

    @property
    def unsent(self) -> int:
        """How many bytes wait."""
        return sum(map(len, self._out))

    def send(self, data: bytes) -> None:
        """Send a frame, or what of it goes at once; `push` sends the rest."""
        head = _HEAD.pack(len(data))
        self._out.extend(map(memoryview, (head + data,) if len(data) <= _JOINED else (head, data)))
        self.push()

    def push(self) -> None:
        """Send what waits, as far as it goes."""
        try:
            while self._out:
                sent = self.sock.send(self._out[0][:_PIECE])
                if sent == len(self._out[0]):
                    self._out.popleft()
                else:
                    self._out[0] = self._out[0][sent:]
        except BlockingIOError:
            return
        except OSError:  # its death is told elsewhere
            self._out.clear()

    def frames(self, *, rest: bool = False) -> Iterator[Any]:
        """The contents of the frames that have come entirely.

        Arguments:
            rest: read up to the end; otherwise only what is there at once.
        """
        more = True
        while more:
            more = self._receive() or (rest and not self.ended and not self._blocked)
            while (body := self._cut()) is not None:
                yield pickle.loads(body)  # noqa: S301 - it comes from our own process

    def _receive(self) -> bool:
        """Take what is there; whether there may be more."""
        size = min(_PIECE, max(_JOINED, self._missing - len(self._in)))
        self._blocked = False
        try:
            data = self.sock.recv(size)
        except BlockingIOError:
            self._blocked = True
            return False
        except OSError:
            data = b""
        self.ended = not data
        self._in += data
        return len(data) == size

    def _cut(self) -> bytearray | None:
        """The next frame, if it is complete."""
        if len(self._in) < _HEAD.size:
            return None
        self._missing = _HEAD.size + _HEAD.unpack_from(self._in)[0]
        if len(self._in) < self._missing:
            return None
        body = self._in[_HEAD.size : self._missing]
        del self._in[: self._missing]
        self._missing = 0
        return body

    def close_sending(self) -> None:
        """Tell the other end that nothing more will come."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection, also if a process that was forked meanwhile has a copy of it."""
        self.ended = True
        self._out.clear()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
