"""What is called under load; imported by worker processes too."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from http.client import HTTPConnection
from typing import Any

__all__ = [
    "ENDINGS",
    "Refused",
    "acall",
    "aget",
    "ahang",
    "aprint",
    "araise",
    "get",
    "hang",
    "killed",
    "leave",
    "make_unpicklable",
    "prints",
    "raises",
    "raises_unpicklable",
    "segfault",
]

ODD = 7
"""The item with which those below do what they are named after; others come back."""
TIMEOUT = 60


class Refused(Exception):
    """The target answered with something else than 200."""


class Unpicklable(Exception):
    """Holds what cannot be handed to another process."""

    def __init__(self) -> None:
        super().__init__("odd")
        self.held = lambda: None


def get(port: int, call: int) -> int:
    """Ask the target once, on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", f"/?id={call}")
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise Refused(f"status {answer.status}")
    return call


async def aget(port: int, call: int) -> int:
    """The same on an event loop."""
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET /?id=%d HTTP/1.1\r\nHost: target\r\n\r\n" % call)
            head = await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise Refused(head.decode())
    return call


def leave(item: int) -> int:
    if item == ODD:
        os._exit(3)
    return item


def segfault(item: int) -> int:
    if item == ODD:
        ctypes.string_at(0)
    return item


def killed(item: int) -> int:
    if item == ODD:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


async def acall(item: int) -> int:
    return item


ENDINGS = (leave, segfault, killed)


def raises(item: int) -> int:
    if item == ODD:
        raise ValueError(f"odd: {item}")
    return item


async def araise(item: int) -> int:
    return raises(item)


def raises_unpicklable(item: int) -> int:
    if item == ODD:
        raise Unpicklable
    return item


def hang(item: int) -> int:
    if item == ODD:
        time.sleep(3600)
    return item


async def ahang(item: int) -> int:
    if item == ODD:
        await asyncio.sleep(3600)
    return item


def prints(item: int) -> int:
    if item == ODD:
        print("odd:", item, flush=True)  # noqa: T201
    return item


async def aprint(item: int) -> int:
    return prints(item)


def make_unpicklable(item: int) -> Any:
    return (lambda: item) if item == ODD else item
