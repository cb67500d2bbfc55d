"""Wake another process: a datagram socket per sleeper, in a folder beside the database."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import stat
import time
from pathlib import Path

from taskyard.brokers.readable import is_readable

__all__ = ["Doorbell", "Doorbells"]

LONGEST_PATH = 100  # bytes; the kernel's limit is 104 to 108
YOUNG = 60.0
"""Seconds for which a socket is left alone: it is there a moment before it can be rung."""

_NAME = re.compile(r"[0-9]+-[0-9a-f]{8}")
_NOBODY = (errno.ECONNREFUSED, errno.ENOENT)


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
        if self._folder_fd is None:  # a child may use its parent's
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
            name: its socket, as the database has it.

        Returns:
            Whether somebody is there. A bell that rings already counts as rung.
        """
        if not _is_name(name):
            return False
        try:
            if self._sender is None or self._pid != os.getpid():
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._sender.setblocking(False)
                self._pid = os.getpid()
            self._sender.sendto(b"!", self.address(name))
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno in _NOBODY:
                self.remove(name)
            return False
        return True

    def is_dead(self, name: str) -> bool:
        """Whether certainly nobody sleeps at a name; nobody is woken."""
        if not _is_name(name):
            return True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(self.address(name))
            except OSError as error:
                return error.errno in _NOBODY
        return False

    def remove(self, name: str) -> None:
        """Remove a socket that nobody listens at."""
        path = self._folder / name
        with contextlib.suppress(OSError):
            # The name may come from the database: it must not choose any other file.
            if _is_name(name) and stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)

    def sweep(self, limit: int) -> int:
        """Remove the sockets of those who died, `limit` at most; say how many."""
        removed = 0
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if removed >= limit:
                    break
                if self._is_old(entry) and self.is_dead(entry.name):
                    self.remove(entry.name)
                    removed += 1
        return removed

    def _is_old(self, entry: os.DirEntry[str]) -> bool:
        if not _is_name(entry.name):
            return False
        try:
            changed = entry.stat(follow_symlinks=False).st_mtime
        except OSError:  # gone meanwhile
            return False
        return abs(time.time() - changed) > YOUNG

    def close(self) -> None:
        """Free what is held."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        if self._folder_fd is not None:
            os.close(self._folder_fd)
            self._folder_fd = None


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


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

    def rings(self, timeout: float) -> bool:
        """Wait for a ring, for so many seconds at most; say whether one came."""
        return is_readable(self.socket.fileno(), timeout)

    def clear(self) -> None:
        """Take every ring that came so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(16)

    def close(self) -> None:
        """Unbind."""
        self.socket.close()
        self._bells.remove(self.name)
