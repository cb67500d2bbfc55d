"""A fair queue in front of the write lock.

SQLite's own busy handler sleeps and tries again, so whoever asks most often wins: measured, one
of two workers got a fifteenth of the work, and a put waited for 434 ms. Processes therefore queue
at an `flock` before they ask SQLite.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from taskyard.errors import BrokerUnavailable

try:
    import fcntl
except ImportError:  # Windows: SQLite's busy handler has to do
    fcntl = None  # type: ignore[assignment]

__all__ = ["Gate"]


class Gate:
    """A file that one process at a time holds locked.

    Arguments:
        path: the file; made when missing.
        timeout: seconds to wait at most.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._fd = -1
        if fcntl is not None:
            try:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError:  # a folder that cannot be written: SQLite will say so better
                self._fd = -1

    def enter(self) -> None:
        """Wait for the turn.

        Raises:
            BrokerUnavailable: it did not come in time.
        """
        if self._fd < 0:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._wait()
        except OSError:  # a file system without locks
            self._fd = -1

    def leave(self) -> None:
        """Let the next one in."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _wait(self) -> None:
        # The kernel's queue makes the gate fair, but nothing limits the time in it. So a thread
        # waits there; if it gets the lock too late, closing its file lets the next one in.
        waiter = _Waiter(self._fd)
        granted = False
        try:
            waiter.start()
            granted = waiter.wait(self._timeout)
        finally:
            if not granted:  # too late, or Ctrl-C: the thread must not keep what it still gets
                waiter.abandon()
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if not granted:
            raise BrokerUnavailable(
                f"{str(self._path).removesuffix('-gate')}: another process keeps it locked for"
                f" {self._timeout:g} s; is one stopped, or held by a debugger? Nothing was stored"
            )

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Waiter:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._state = threading.Lock()
        self._granted = threading.Event()
        self._abandoned = False
        self._runs = True

    def start(self) -> None:
        try:
            threading.Thread(target=self._run, name="taskyard-gate", daemon=True).start()
        except RuntimeError:  # no more threads
            self._runs = False
            raise

    def _run(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        with self._state:
            if self._abandoned:
                os.close(self._fd)
            else:
                self._granted.set()

    def wait(self, timeout: float) -> bool:
        return self._granted.wait(timeout)

    def abandon(self) -> None:
        with self._state:
            self._abandoned = True
            if self._granted.is_set() or not self._runs:
                os.close(self._fd)
