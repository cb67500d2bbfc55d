"""The supervisor: worker processes, restarted when they die, and their claims given back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from taskyard.errors import TaskyardError, WorkerError
from taskyard.worker.run import Signals, TaskSource, check_shared, serve
from taskyard.worker.settings import WorkerSettings
from taskyard.worker.worker import Worker, make_owner

__all__ = ["Supervisor"]

log = logging.getLogger("taskyard.supervisor")

REFUSED = 78
"""Exit code of a child that cannot work (EX_CONFIG): no use in starting it again."""
HARD = signal.SIGQUIT
"""Tells a child to wait for nothing. A second SIGTERM would be no sign of that: systemd, for one,
sends SIGTERM to every process of a service, and the supervisor passes its own on."""
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that end the supervisor."""
PROGRESS = b"."
"""What a child tells when it made progress; anything else says why it cannot work."""
LONGEST_REFUSAL = 20_000
HEALTHY = 30.0
"""Seconds after which a child that made no progress is called stuck."""
BACKOFF = (0.1, 10.0)
"""Seconds before a child that died young is started again: at first, at most."""
YOUNG = 5.0
KILL_AFTER = 5.0
"""Seconds that a child gets beyond the grace time before it is killed."""

Load = Callable[[], TaskSource]


class _Child:
    """A worker process."""

    def __init__(self, number: int, delay: float) -> None:
        self.number = number
        self.delay = delay
        self.owner = ""
        self.process: BaseProcess | None = None
        self.pipe: Connection | None = None
        self.started = 0.0
        self.progress = 0.0
        self.start_at = time.monotonic()
        self.stuck = False


class Supervisor:
    """Keeps worker processes running.

    Arguments:
        load: gives the tasks and the broker; called in each child, never here, so that this
            process imports nothing of the user's and stays able to fork.
        settings: how the children work.

    Raises:
        WorkerError: this system cannot fork.
    """

    def __init__(self, load: Load, settings: WorkerSettings) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise WorkerError("worker processes need fork; on this system use processes=0")
        self._load = load
        self._settings = settings
        self._fork = multiprocessing.get_context("fork")
        self._children = [_Child(number, BACKOFF[0]) for number in range(settings.processes)]
        self._received = Signals()
        self._signals = 0
        self._kill_at: float | None = None
        self._refusal = ""

    def run(self) -> None:
        """Run the children until a signal, or (burst) until they have ended by themselves.

        Raises:
            WorkerError: a child said that it cannot work, or cannot go on; in its words.
        """
        with self._signal_pipe() as signalled:
            while self._children:
                self._start_due()
                self._watch(signalled)
                self._write_health()
                self._kill_late()
        if self._refusal:
            raise WorkerError(self._refusal)

    # Signals

    @contextlib.contextmanager
    def _signal_pipe(self) -> Iterator[int]:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        previous_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        previous = {number: signal.signal(number, self._on_signal) for number in STOPPING}
        try:
            yield reading
        finally:
            signal.set_wakeup_fd(previous_fd)
            for number, handler in previous.items():
                signal.signal(number, handler)
            os.close(reading)
            os.close(writing)

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        if self._received.count():
            log.info("received %s", signal.Signals(number).name)
            self._stop()

    def _stop(self) -> None:
        self._signals += 1
        self._kill_at = time.monotonic() + KILL_AFTER
        if self._signals == 1:
            self._kill_at += self._settings.grace
        for child in self._children:
            if child.process is not None and child.process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.process.pid, signal.SIGTERM if self._signals == 1 else HARD)

    # Children

    def _start_due(self) -> None:
        if self._signals:
            self._children = [child for child in self._children if child.process is not None]
        for child in self._children:
            if child.process is None and child.start_at <= time.monotonic():
                # A signal while only one side knows of the other would be lost for that child.
                signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
                try:
                    if not self._signals:
                        self._start(child)
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def _start(self, child: _Child) -> None:
        child.owner = make_owner()
        reading, writing = self._fork.Pipe()
        others = [other.pipe for other in self._children if other.pipe is not None]
        sys.stdout.flush()
        sys.stderr.flush()
        child.process = self._fork.Process(
            target=_child_main,
            args=(self._load, self._settings, child.owner, writing, [reading, *others]),
            name=f"taskyard-worker-{child.number}",
        )
        child.process.start()
        writing.close()
        child.pipe = reading
        child.started = child.progress = time.monotonic()
        child.stuck = False
        log.info("started worker process %s", child.process.pid)

    def _watch(self, signalled: int) -> None:
        running = {
            child.process.sentinel: child for child in self._children if child.process is not None
        }
        pipes = {child.pipe: child for child in running.values() if child.pipe is not None}
        ready = wait([signalled, *running, *pipes], timeout=self._patience())
        for item in ready:
            if item == signalled:
                os.read(signalled, 64)
            elif isinstance(item, Connection):
                self._hear(pipes[item])
        for item in ready:
            if isinstance(item, int) and item in running:
                self._ended(running[item])

    def _patience(self) -> float:
        now = time.monotonic()
        times = [child.start_at - now for child in self._children if child.process is None]
        if self._kill_at is not None:
            times.append(self._kill_at - now)
        return max(0.0, min([*times, 5.0]))

    def _hear(self, child: _Child) -> None:
        if child.pipe is None:
            return
        try:
            told = child.pipe.recv_bytes()
        except (EOFError, OSError):
            child.pipe.close()
            child.pipe = None
            return
        if told != PROGRESS:
            self._refusal = self._refusal or told.decode(errors="replace")
        child.progress = time.monotonic()
        child.delay = BACKOFF[0] if child.progress - child.started > YOUNG else child.delay

    def _ended(self, child: _Child) -> None:
        process = child.process
        if process is None:
            return
        process.join()
        code = process.exitcode
        process.close()
        while child.pipe is not None and child.pipe.poll():
            self._hear(child)
        if child.pipe is not None:
            child.pipe.close()
        child.process = child.pipe = None
        if code == REFUSED:
            self._refusal = self._refusal or "a worker process refused to work"
            if not self._signals:
                self._stop()
        elif code != 0:
            name = signal.Signals(-code).name if code is not None and code < 0 else f"code {code}"
            log.error("a worker process died (%s); its claims are given back", name)
            self._give_back(child.owner)
        if self._signals or code == REFUSED or (code == 0 and self._settings.burst):
            self._children.remove(child)
            return
        if code != 0 and time.monotonic() - child.started < YOUNG:
            child.start_at = time.monotonic() + child.delay
            child.delay = min(child.delay * 2, BACKOFF[1])
        else:
            child.start_at = time.monotonic()

    def _give_back(self, owner: str) -> None:
        # In a child of its own: this process must never hold a connection when it forks.
        reaper = self._fork.Process(target=_reaper_main, args=(self._load, owner))
        reaper.start()
        reaper.join(self._settings.lease)

    def _kill_late(self) -> None:
        if self._kill_at is None or time.monotonic() < self._kill_at:
            return
        self._kill_at = None
        for child in self._children:
            if child.process is not None:
                log.error("worker process %s does not end; killing it", child.process.pid)
                child.process.kill()

    # Health

    def _write_health(self) -> None:
        stuck = []
        for child in self._children:
            late = time.monotonic() - child.progress > max(HEALTHY, self._settings.lease)
            if child.process is not None and late:
                stuck.append(child)
                if not child.stuck:
                    log.warning("worker process %s makes no progress", child.process.pid)
            child.stuck = child.process is not None and late
        if self._settings.health_file and not stuck and not self._signals:
            with contextlib.suppress(OSError):
                Path(self._settings.health_file).touch()


def _child_main(
    load: Load,
    settings: WorkerSettings,
    owner: str,
    pipe: Connection,
    foreign: list[Connection],
) -> None:
    for other in foreign:
        other.close()
    signal.set_wakeup_fd(-1)
    # Ctrl-C goes to the whole foreground group; the supervisor passes one signal on for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    try:
        source = load()
        check_shared(source)
        serve(
            source, settings, owner=owner, progress=_Reporter(pipe), watch=_watch_supervisor(pipe)
        )
        code = 0
    except TaskyardError as error:
        with contextlib.suppress(OSError):
            pipe.send_bytes(str(error)[:LONGEST_REFUSAL].encode(errors="replace") or b"?")
        code = REFUSED
    except BaseException:
        log.exception("a worker process failed")
        code = 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A handler's thread that never ends must not keep the process: what it held was given back.
    os._exit(code)


def _watch_supervisor(pipe: Connection) -> Callable[[asyncio.AbstractEventLoop, Worker], None]:
    def watch(loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
        def on_end() -> None:
            # Nothing is ever sent this way: it is readable when the supervisor is gone.
            loop.remove_reader(pipe.fileno())
            log.error("the supervisor is gone")
            worker.stop()

        loop.add_reader(pipe.fileno(), on_end)
        loop.add_signal_handler(signal.SIGTERM, worker.stop)
        loop.add_signal_handler(HARD, partial(worker.stop, hard=True))

    return watch


class _Reporter:
    """Tells the supervisor of progress, at most once a second."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 1
            with contextlib.suppress(OSError):
                self._pipe.send_bytes(PROGRESS)


def _reaper_main(load: Load, owner: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        source = load()
        driver = source.broker.driver()
        driver.run(source.broker.reap([owner]))
        driver.close()
    except Exception:
        log.exception("the claims of a dead worker process could not be given back at once")
    logging.shutdown()
    os._exit(0)
