"""A network that takes its time: a TCP proxy, in a process of its own, that delays what it passes.

It is a line, not a brake: what arrives is passed on whole, so much later, however much it is.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from typing import TypeAlias

from bench.child import ready, send

CHUNK = 1 << 18
Line: TypeAlias = "queue.SimpleQueue[tuple[float, bytes]]"
"""What was read, and when it must go on; nothing at all: the end."""


def serve(port: int, delay: float) -> None:
    """Listen on a port, say which, and pass everything on until told to end.

    Arguments:
        port: of this machine, where it goes.
        delay: seconds, in each direction.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    send({"port": listening.getsockname()[1]})
    threading.Thread(target=_accept, args=(listening, port, delay), daemon=True).start()
    ready()


def _accept(listening: socket.socket, port: int, delay: float) -> None:
    while True:
        client, _ = listening.accept()
        server = socket.create_connection(("127.0.0.1", port))
        for source, target in ((client, server), (server, client)):
            target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line: Line = queue.SimpleQueue()
            threading.Thread(target=_read, args=(source, line, delay), daemon=True).start()
            threading.Thread(target=_write, args=(target, line), daemon=True).start()


def _read(source: socket.socket, line: Line, delay: float) -> None:
    data = b"?"
    while data:
        try:
            data = source.recv(CHUNK)
        except OSError:
            data = b""
        line.put((time.monotonic() + delay, data))


def _write(target: socket.socket, line: Line) -> None:
    while True:
        due, data = line.get()
        if (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        try:
            if not data:
                target.shutdown(socket.SHUT_WR)
                return
            target.sendall(data)
        except OSError:
            return
