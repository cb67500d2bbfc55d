"""How worker processes come about, also later on, when the parent has threads.

To fork a process that has threads is dangerous: what they hold, a lock of the allocator, of logging
or of the user's own, is held for ever in the child. A worker that died has to be replaced while the
parent has threads. So, with "fork" and "forkserver", there is a *nursery*: a process with a single
thread that does nothing but fork workers when it is told to. With "fork" it is itself forked from
the parent at the start of a run, and so it has the function, and all that it refers to, without
anything being pickled. With "forkserver" it is a fresh interpreter, which loads the function. With
"spawn" there is none: each worker is a fresh interpreter.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import multiprocessing
import os
import select
import signal
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Iterator
from logging.handlers import BufferingHandler
from multiprocessing import reduction, resource_tracker
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, Literal, NamedTuple, Protocol

from taskyard.dispatch.engine import Job, StartMethod
from taskyard.dispatch.processes.carrying import carried, main_is_importable, unpacked
from taskyard.dispatch.processes.child import deafen, run_child
from taskyard.dispatch.processes.wire import Line, dump, is_readable, send
from taskyard.errors import MissingExtra, WorkerError

__all__ = ["CANNOT", "Births", "Ends", "Post", "begin", "ending"]

CANNOT = (
    "What it wrote to stderr says why. A program that is run as a script needs its "
    "`if __name__ == '__main__':` around what is not to be run in worker processes, too; "
    "or use start_method='fork'"
)
"""What to look for when processes cannot start."""

_ORDER = struct.Struct("<cqq")
_START, _KILL = b"s", b"k"
_CROWDED = (errno.EAGAIN, errno.ETOOMANYREFS)
"""The socket's buffer is full; more descriptors are under way than one may have open."""
_CROWDED_FOR = 0.005
"""Seconds after which it is tried again."""

_PARENT_EVERY = 250
"""Milliseconds after which it is looked whether the parent is still there."""

SAID: tuple[StartMethod, ...] = ("spawn", "forkserver")
"""What a program tells `multiprocessing.set_start_method` on purpose; "fork" comes by itself."""


class Post(NamedTuple):
    """What a worker process is given at its start.

    Attributes:
        number: of the process, in this run.
        threads: how many it has.
        line: where lots come in and what has ended goes out.
        orders: where orders come in.
        cells: the memory it tells in which calls are under way.
    """

    number: int
    threads: int
    line: socket.socket
    orders: socket.socket
    cells: int


class Ends(NamedTuple):
    """What is told of a worker process: its end; or of all, why none can start.

    Attributes:
        number: of the process; 0: of what starts them, so that all are gone.
        code: its exit code, minus the signal that killed it; None: not known.
        refusal: why there can be no processes; "": there can.
    """

    number: int
    code: int | None
    refusal: str = ""


class Births(Protocol):
    """Starts worker processes, and knows of their ends.

    Attributes:
        apart: whether they are no copies of this process, and import what they need.
    """

    apart: bool

    def start(self, post: Post) -> None:
        """Start a process; the caller closes what it was given."""
        ...

    def kill(self, number: int) -> None:
        """Kill a process, if it is still there."""
        ...

    def watched(self) -> list[Any]:
        """What becomes readable when there is something to hear."""
        ...

    def hear(self) -> Iterator[Ends]:
        """What has happened since.

        What was watched for a process is closed after its end was given: its number may be that of
        another file then, so it is to be watched no longer.
        """
        ...

    def close(self) -> None:
        """Kill those that are still there."""
        ...


def ending(code: int | None) -> str:
    """How a process ended, for a sentence about it."""
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-code}"


def begin(job: Job, offset: float, method: StartMethod | None) -> Births:
    """Get ready to start worker processes.

    Arguments:
        job: what they do.
        offset: unix seconds less seconds of the monotonic clock.
        method: how they come about. None: as the program said to multiprocessing; else they are
            forked, if this process has one thread; otherwise by "forkserver", if the function can
            be pickled for that.

    Raises:
        MissingExtra: the function can be pickled by cloudpickle only, which is not installed.
        WorkerError: it cannot be pickled, there is no such method here, or this process may have no
            others.
    """
    if multiprocessing.current_process().daemon:
        raise WorkerError(
            "a daemonic process of multiprocessing can have no processes of its own: use "
            "kind='threads' in it, or start it with daemon=False"
        )
    known = multiprocessing.get_all_start_methods()
    if method is None:
        method, packed = _choose(job, known)
    elif method in known:
        packed = None if method == "fork" else carried(job, job.function)
    else:
        raise WorkerError(f"processes can start here by {', '.join(known)}, not by {method!r}")
    if packed is None:
        return _Nursery("fork", job, offset)
    return _Spawned(packed, offset) if method == "spawn" else _Nursery("spawn", packed, offset)


def _choose(job: Job, known: list[str]) -> tuple[StartMethod, bytes | None]:
    asked = multiprocessing.get_start_method(allow_none=True)
    for method in SAID:
        if method == asked:
            return method, carried(job, job.function)
    # On macOS the system's own libraries have threads; Python does not fork there either.
    if "fork" not in known or sys.platform == "darwin":
        return "spawn", carried(job, job.function)
    if threading.active_count() == 1:
        return "fork", None
    try:
        return "forkserver", carried(job, job.function)
    except (MissingExtra, WorkerError):
        # With threads, but at once: the nursery, which uses nothing that they may hold.
        return "fork", None


def _start(process: BaseProcess, how: contextlib.AbstractContextManager[None]) -> None:
    """Start a process that hears no signal until it has said what to do with it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        with how:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _forking() -> Iterator[None]:
    """Without the warning of threads in a process that forks: `begin` says when, and why.

    Not around other things: it would undo, for a moment, what other threads do about warnings.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextlib.contextmanager
def _spawning() -> Iterator[None]:
    """Without the file of a main module that came from stdin, which multiprocessing would run."""
    main = sys.modules["__main__"]
    from_stdin = getattr(main, "__spec__", None) is None and not main_is_importable()
    file = main.__dict__.pop("__file__", None) if from_stdin else None
    try:
        yield
    finally:
        if file is not None:
            main.__file__ = file


# Fresh interpreters


class _Spawned:
    """Starts each worker as a fresh interpreter.

    Arguments:
        job: what they do, pickled.
        offset: unix seconds less seconds of the monotonic clock.
    """

    def __init__(self, job: bytes, offset: float) -> None:
        self._job = job
        self._offset = offset
        self._processes: dict[int, tuple[BaseProcess, int]] = {}
        self._waiting = select.poll()
        self.apart = True
        self._at_exit = Finalize(None, self.close, exitpriority=100)

    def start(self, post: Post) -> None:
        process = multiprocessing.get_context("spawn").Process(
            target=_spawned_main,
            args=(self._job, post.threads, self._offset, post.line, post.orders, _Fd(post.cells)),
            name=f"taskyard-run-{post.number}",
            daemon=True,
        )
        resource_tracker.ensure_running()  # as that would unblock signals
        _start(process, _spawning())
        fd = _watch(process)
        self._processes[post.number] = (process, fd)
        self._waiting.register(fd, select.POLLIN)

    def kill(self, number: int) -> None:
        if number in self._processes:
            self._processes[number][0].kill()

    def watched(self) -> list[Any]:
        return [fd for _, fd in self._processes.values()]

    def hear(self) -> Iterator[Ends]:
        ended = {fd for fd, _ in self._waiting.poll(0)}
        for number, (process, fd) in list(self._processes.items()):
            # Its sentinel would not do: a process that the function forked holds that too.
            if fd not in ended and fd != process.sentinel:
                continue
            if _has_ended(process):
                code = process.exitcode
                del self._processes[number]
                self._waiting.unregister(fd)
                try:
                    yield Ends(number, code)
                finally:  # whoever watches it has let go of it
                    _unwatch(process, fd)

    def close(self) -> None:
        self._at_exit.cancel()
        for process, fd in self._processes.values():
            process.kill()
            process.join()
            _unwatch(process, fd)
        self._processes.clear()


class _Fd:
    """A file descriptor for a process that is being spawned."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, (reduction.DupFd(self._fd),)


def _detached(held: Any) -> int:
    fd: int = held.detach()
    return fd


def _watch(process: BaseProcess) -> int:
    try:
        return os.pidfd_open(process.pid or 0)
    except (AttributeError, OSError):  # not Linux, or forbidden
        return process.sentinel


def _unwatch(process: BaseProcess, fd: int) -> None:
    if fd != process.sentinel:
        os.close(fd)
    _forget(process)


def _has_ended(process: BaseProcess) -> bool:
    """Whether it has; also if nobody will know how.

    That is so if the program ignores SIGCHLD, as daemons do, or waits for whatever ends, as what is
    the first process of a container does.
    """
    if process.exitcode is not None:
        return True
    try:
        os.kill(process.pid or 0, 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


def _forget(process: Any) -> None:
    """Close a process that has ended, and was waited for."""
    if process.exitcode is None:  # by the program: multiprocessing would hold it for running
        process._popen.returncode = 255
    process.close()


def _spawned_main(
    packed: bytes,
    threads: int,
    offset: float,
    line: socket.socket,
    orders: socket.socket,
    cells: Any,
) -> None:
    try:
        job = unpacked(packed)
    except WorkerError as error:
        send(line, dump(("refused", str(error))))
        os._exit(1)
    run_child(job, threads, offset, line, orders, cells)


# The nursery


class _Nursery:
    """Has workers forked by a process made for that.

    Arguments:
        method: how that process comes about.
        job: what workers do, pickled if it is spawned.
        offset: unix seconds less seconds of the monotonic clock.
    """

    def __init__(self, method: Literal["fork", "spawn"], job: Any, offset: float) -> None:
        ours, theirs = socket.socketpair()
        context: Any = multiprocessing.get_context(method)
        self._process: BaseProcess = context.Process(
            target=_nursery_main,
            args=(job, offset, theirs, ours if method == "fork" else None),
            name="taskyard-nursery",
            daemon=True,
        )
        with theirs:
            try:
                if method == "spawn":
                    resource_tracker.ensure_running()  # as that would unblock signals
                _start(self._process, _spawning() if method == "spawn" else _forking())
            except BaseException:
                ours.close()
                raise
        self.apart = method == "spawn"
        self._line = Line(ours)
        self._heard: list[tuple[int, int | None, str]] = []
        self._told = False
        # An orderly end of the program would wait for it otherwise, if nobody closed this.
        self._at_exit = Finalize(None, self._line.close, exitpriority=100)

    def start(self, post: Post) -> None:
        fds = [post.line.fileno(), post.orders.fileno(), post.cells]
        self._tell(_START, post.number, post.threads, fds)

    def kill(self, number: int) -> None:
        self._tell(_KILL, number, 0, [])

    def _tell(self, what: bytes, number: int, threads: int, fds: list[int]) -> None:
        data = _ORDER.pack(what, number, threads)
        while True:
            try:
                socket.send_fds(self._line.sock, [data], fds)
            except OSError as error:
                if error.errno not in _CROWDED:
                    return  # its end is heard below
            else:
                return
            # It forks more slowly than it is told to. It may itself wait to tell of ends.
            if is_readable(self._line.sock, _CROWDED_FOR):
                self._heard.extend(self._line.frames())

    def watched(self) -> list[Any]:
        return [] if self._line.ended else [self._line.sock]

    def hear(self) -> Iterator[Ends]:
        self._heard.extend(self._line.frames())
        heard, self._heard = self._heard, []
        for number, code, refusal in heard:
            yield Ends(number, code, refusal)
        if self._line.ended and not self._told:
            self._told = True
            self._process.join(1)
            code = self._process.exitcode
            yield Ends(0, code, f"the process that forks worker processes {ending(code)}. {CANNOT}")

    def close(self) -> None:
        self._at_exit.cancel()
        self._line.close()
        self._process.join(5)
        if not _has_ended(self._process):
            self._process.kill()
            self._process.join()
        _forget(self._process)


def _nursery_main(
    job: Any, offset: float, line: socket.socket, parents: socket.socket | None
) -> None:
    if parents is not None:
        parents.close()
        _forget_records()
    signal.set_wakeup_fd(-1)  # that of the program that was forked
    deafen()
    try:
        given: Job = unpacked(job) if isinstance(job, bytes) else job
    except WorkerError as error:
        send(line, dump((0, None, str(error))))
        os._exit(1)
    _Forking(given, offset, line).run()
    os._exit(0)


def _forget_records() -> None:
    """Forget what the program has logged and not shown yet, or each process would show it, too."""
    for reference in getattr(logging, "_handlerList", ()):
        if isinstance(handler := reference(), BufferingHandler):
            handler.buffer.clear()


class _Forking:
    """The nursery, in its own process."""

    def __init__(self, job: Job, offset: float, line: socket.socket) -> None:
        self._job = job
        self._offset = offset
        self._line = line
        self._numbers: dict[int, int] = {}  # by the id of the process
        self._woken, self._waking = os.pipe()
        self._parent = os.getppid()

    def run(self) -> None:
        """Fork when told to, and tell of ends, until the parent is gone."""
        os.set_blocking(self._waking, False)
        signal.set_wakeup_fd(self._waking, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _notice)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD,))  # as the program left it
        waiting = select.poll()  # unlike select, it takes descriptors of any number
        waiting.register(self._line, select.POLLIN)
        waiting.register(self._woken, select.POLLIN)
        # Its line stays open behind it, if another process that it has forked has a copy.
        while os.getppid() == self._parent:
            readable = {fd for fd, _ in waiting.poll(_PARENT_EVERY)}
            if self._woken in readable:
                os.read(self._woken, 4096)
                self._bury()
            if self._line.fileno() in readable and not self._obey():
                break
        for pid in self._numbers:  # also those whose call never lets go
            os.kill(pid, signal.SIGKILL)

    def _obey(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._line, _ORDER.size, 3)
        except OSError:
            return False
        if len(data) < _ORDER.size:
            return False
        what, number, threads = _ORDER.unpack(data)
        if what == _START:
            self._fork(number, threads, fds)
        else:
            for pid in [pid for pid, each in self._numbers.items() if each == number]:
                os.kill(pid, signal.SIGKILL)
        return True

    def _fork(self, number: int, threads: int, fds: list[int]) -> None:
        with _forking():  # there may be threads of a library
            try:
                pid = os.fork()
            except OSError as error:
                send(self._line, dump((number, None, f"cannot fork: {error}")))
                pid = -1
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for fd in (self._woken, self._waking, self._line.detach()):
                os.close(fd)
            line, orders = socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1])
            run_child(self._job, threads, self._offset, line, orders, fds[2])
        for fd in fds:
            os.close(fd)
        if pid > 0:
            self._numbers[pid] = number

    def _bury(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if (number := self._numbers.pop(pid, None)) is not None:
                code = os.waitstatus_to_exitcode(status)
                with contextlib.suppress(OSError):
                    send(self._line, dump((number, code, "")))


def _notice(number: int, frame: object) -> None:
    """What is called for a signal that is only to end a wait."""
