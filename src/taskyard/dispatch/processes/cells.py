"""Memory that the parent shares with a worker process: which call each of its threads is in.

A store per call, which outlives the process however it ends. Calls go by serial, which rises from
1 in the order in which a process is given them.

By the same way the parent recalls calls, so that it need not wait for a process that is in a long
call. A thread first tells which call it is about to begin and then looks whether that was recalled;
the parent first recalls and then, some milliseconds later, looks what was begun. So one of the two
sees the other one: what the parent finds not begun by then never will be.
"""

from __future__ import annotations

import mmap
import os
import tempfile

__all__ = ["Cells"]


class Cells:
    """What each thread of a process is at.

    Arguments:
        fd: the memory, as `create` made it. It may be closed afterwards.
        threads: how many threads the process has.

    Attributes:
        calls: by thread, the serial of the call it is in; minus that of the last one, if it is in
            none; 0: it was in none yet.
        waits: by thread, the serial of a planned call whose instant it waits for; 0: it does not.
        begun: by thread, when the attempt that it is in, or was in last, began.
        attempts: by thread, which attempt that is; 0: the first one.
        recalled: a single serial, which the parent writes: no call below it is to be begun.
    """

    def __init__(self, fd: int, threads: int) -> None:
        memory = memoryview(mmap.mmap(fd, _size(threads)))
        self.begun = memory[: 8 * threads].cast("d")
        numbers = memory[8 * threads :].cast("q")
        self.calls = numbers[:threads]
        self.waits = numbers[threads : 2 * threads]
        self.attempts = numbers[2 * threads : 3 * threads]
        self.recalled = numbers[3 * threads :]

    @staticmethod
    def create(threads: int) -> int:
        """Make the memory for a process.

        Returns:
            A file descriptor of it.
        """
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("taskyard-cells")
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, _size(threads))
        return fd

    def running(self) -> list[int]:
        """The serials of the calls that are under way."""
        return [serial for serial in self.calls if serial > 0]

    def reached(self) -> int:
        """The highest serial that was begun; those above it were not."""
        return max(map(abs, self.calls))

    def waiting(self) -> list[int]:
        """The serials of calls that a thread has taken and not begun."""
        begun = set(map(abs, self.calls))
        return [serial for serial in self.waits if serial and serial not in begun]


def _size(threads: int) -> int:
    return 8 * (4 * threads + 1)
