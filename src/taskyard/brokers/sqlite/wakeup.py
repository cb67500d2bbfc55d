"""Wake another process: a datagram socket per sleeper, in a folder beside the database."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
from pathlib import Path

__all__ = ["Doorbell", "Doorbells"]

LONGEST_PATH = 100  # bytes; the kernel's limit is 104 to 108


class Doorbells:
    """The folder of sockets beside a database.

    Arguments:
        folder: where sleepers bind their sockets; made when the first one does.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder_fd: int | None = None
        self._sender: socket.socket | None = None
        self._pid = 0

    def address(self, name: str) -> str:
        """The path of a socket, short enough for the kernel.

        Raises:
            OSError: there is no short enough path on this system.
        """
        path = str(self._folder / name)
        if len(os.fsencode(path)) <= LONGEST_PATH:
            return path
        if not os.path.isdir("/proc/self/fd"):
            raise OSError(errno.ENAMETOOLONG, "path too long for a socket", path)
        if self._folder_fd is None or self._pid != os.getpid():
            self._folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._folder_fd}/{name}"

    def bell(self) -> Doorbell | None:
        """Bind a socket to sleep at; None where that is impossible (then sleepers poll)."""
        if not hasattr(socket, "AF_UNIX"):
            return None
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            return Doorbell(self)
        except OSError:
            return None

    def ring(self, name: str) -> bool:
        """Wake a sleeper without waiting.

        Arguments:
            name: its socket.

        Returns:
            Whether somebody is there. A bell that rings already counts as rung.
        """
        try:
            if self._sender is None or self._pid != os.getpid():
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._sender.setblocking(False)
                self._pid = os.getpid()
            self._sender.sendto(b"!", self.address(name))
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
                self.remove(name)
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a socket that nobody listens at."""
        with contextlib.suppress(OSError):
            os.unlink(self._folder / name)

    def close(self) -> None:
        """Free what is held."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        if self._folder_fd is not None:
            os.close(self._folder_fd)
            self._folder_fd = None


class Doorbell:
    """A bound socket. Its `name` is what others ring."""

    def __init__(self, bells: Doorbells) -> None:
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._bells = bells
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self.socket.setblocking(False)
            self.socket.bind(bells.address(self.name))
        except OSError:
            self.socket.close()
            raise

    def clear(self) -> None:
        """Take every ring that came so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(16)

    def close(self) -> None:
        """Unbind."""
        self.socket.close()
        self._bells.remove(self.name)
