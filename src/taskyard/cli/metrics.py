"""`taskyard worker --metrics`: each worker process shows its numbers to Prometheus."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
from collections.abc import Sequence

from taskyard.errors import MissingExtra, WorkerError
from taskyard.yard import Yard

__all__ = ["Endpoints", "parse_address"]

HOST = "127.0.0.1"
HIGHEST = 65_535


def parse_address(text: str) -> tuple[str, int]:
    """Read PORT or HOST:PORT; a host of IPv6 is in brackets.

    Raises:
        ValueError: it is neither.
    """
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdecimal() or not 1 <= int(port) <= HIGHEST:
        raise ValueError(f"{port!r} is no port from 1 to {HIGHEST}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{host!r} needs brackets: [{host}]:{port}")
    return host or HOST, int(port)


class Endpoints:
    """The ports of worker processes: the given one, and those behind it.

    They are bound before there are processes: that one is taken is told at once, and a process that
    is replaced leaves its port to the next.

    Arguments:
        host: the address to listen at.
        port: of the first process.
        processes: how many there are.

    Raises:
        MissingExtra: prometheus_client is not installed.
        WorkerError: a port is taken, or not allowed.
    """

    def __init__(self, host: str, port: int, processes: int) -> None:
        if importlib.util.find_spec("prometheus_client") is None:
            raise MissingExtra("--metrics needs a package: pip install 'taskyard[prometheus]'")
        self._sockets: Sequence[socket.socket] = []
        with contextlib.ExitStack() as stack:
            self._sockets = [
                stack.enter_context(_bound(host, port + number)) for number in range(processes)
            ]
            stack.pop_all()

    def serve(self, yard: Yard, number: int) -> None:
        """Show the numbers of this process, and in the first one those of the broker too.

        Arguments:
            yard: what the process works on.
            number: which process it is, from 0.
        """
        from taskyard.telemetry.endpoint import serve_metrics

        for other, listening in enumerate(self._sockets):
            if other != number:
                listening.close()
        serve_metrics(yard, self._sockets[number], of_broker=number == 0)


def _bound(host: str, port: int) -> socket.socket:
    try:
        if port > HIGHEST:
            raise OverflowError(f"there is no port above {HIGHEST}")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WorkerError(
            f"metrics cannot be shown at {host}:{port}: {reason}. Give --metrics another port; each"
            f" process takes one, the given one and those behind it"
        ) from error
