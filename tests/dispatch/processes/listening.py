"""How tests and functions in worker processes wait for each other."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Listener", "listening"]


class Listener:
    """Where functions in worker processes say something (`functions.tell`) and wait for an answer.

    Arguments:
        path: of its socket.
    """

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.address)
        self._socket.listen(100)
        self._socket.settimeout(30)
        self._connection = socket.socket(socket.AF_UNIX)

    def accept(self) -> tuple[str, socket.socket]:
        """Wait for somebody: what is said, and where to answer."""
        connection, _ = self._socket.accept()
        connection.settimeout(30)
        with connection.makefile() as said:
            return said.readline().strip(), connection

    def hear(self) -> str:
        """What is said; whoever says it waits until `answer`."""
        self._connection.close()
        said, self._connection = self.accept()
        return said

    def answer(self) -> None:
        """Let it go on."""
        self._connection.sendall(b"answer")

    def close(self) -> None:
        """Listen to nobody any more."""
        self._socket.close()
        self._connection.close()


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener."""
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="ty") as folder:
        made = Listener(Path(folder) / "s")
        try:
            yield made
        finally:
            made.close()
