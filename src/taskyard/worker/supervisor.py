"""The supervisor: worker processes, restarted when they die, and their claims given back."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from taskyard.brokers.base import Driver
from taskyard.brokers.common import SUPERVISED
from taskyard.errors import TaskyardError, WorkerError
from taskyard.message import Failure, Reason
from taskyard.worker.run import (
    HARD,
    STOPPING,
    Prepare,
    ShouldReplace,
    Signals,
    TaskSource,
    check_shared,
    prepare_nothing,
    serve,
)
from taskyard.worker.settings import WorkerSettings
from taskyard.worker.worker import make_owner

__all__ = ["Supervisor"]

log = logging.getLogger("taskyard.supervisor")

# What a child tells. Not by its exit code: a handler that calls `os._exit` chooses that too.
PROGRESS = b"."
"""It exchanged something with the broker."""
DRAINED = b"d"
"""It ends: with `burst`, nothing is left."""
STOPPED = b"s"
"""It ends, since it was told to or is to be replaced; there may be work left."""
DISMISSED = b"x"
"""It ends, since a control message told it to: it is not replaced."""
REFUSED = b"r"
"""It cannot work, so there is no use in starting it again; the reason follows."""
LONGEST_REFUSAL = 20_000
HEALTHY = 30.0
"""Seconds after which a child that made no progress is called stuck."""
BACKOFF = (0.1, 10.0)
"""Seconds before a child that died young is started again: at first, at most."""
YOUNG = 5.0
ASK_EVERY = 1.0
"""Seconds after which is asked again which children are to be replaced."""
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
        self.ending = b""  # what it told of its end
        self.started = 0.0
        self.start_at = self.progress = time.monotonic()
        self.stuck = False
        self.kill_at: float | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, or None between two processes."""
        return None if self.process is None else self.process.pid


class Supervisor:
    """Keeps worker processes running.

    Arguments:
        load: gives the tasks and the broker; called in each child, never here, so that this
            process imports nothing of the user's and stays able to fork.
        settings: how the children work.
        prepare: called in each child before it works, with what `load` gave and its number.
        should_replace: asked every second of each child; one that it says yes to is stopped as by
            SIGTERM, and another one is started in its place.

    Raises:
        WorkerError: this system cannot fork, or this is not the main thread.
    """

    def __init__(
        self,
        load: Load,
        settings: WorkerSettings,
        prepare: Prepare = prepare_nothing,
        *,
        should_replace: ShouldReplace | None = None,
    ) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise WorkerError("worker processes need fork; on this system use processes=0")
        if threading.current_thread() is not threading.main_thread():
            raise WorkerError(
                "worker processes can be started from the main thread only, as only that hears "
                "signals; in another one use processes=0"
            )
        self._load = load
        self._prepare = prepare
        self._settings = settings
        self._should_replace = should_replace
        self._ask_at = time.monotonic() + ASK_EVERY
        self._fork = multiprocessing.get_context("fork")
        self._children = [_Child(number, BACKOFF[0]) for number in range(settings.processes)]
        self._stopping = False
        self._refusal = ""

    def run(self) -> signal.Signals | None:
        """Run the children until a signal, or (burst) until they have ended by themselves.

        Returns:
            The signal; None: there was none.

        Raises:
            WorkerError: a child said that it cannot work, or cannot go on; in its words.
        """
        signals = Signals(self._stop)
        with self._signal_pipe(signals) as signalled:
            while self._children:
                self._start_due()
                self._write_health()  # before the wait: a child may be slow to say anything
                self._watch(signalled)
                self._replace()
                self._kill_late()
        if self._refusal:
            raise WorkerError(self._refusal)
        return signals.first

    # Signals

    @contextlib.contextmanager
    def _signal_pipe(self, signals: Signals) -> Iterator[int]:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        previous_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        previous = {number: signal.signal(number, signals.hear) for number in signals.numbers()}
        # That it arrives is enough: it ends the wait, so that the death of a child is noticed.
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _notice)
        try:
            yield reading
        finally:
            signal.set_wakeup_fd(previous_fd)
            for number, handler in previous.items():
                if handler is not None:  # it was not set from Python
                    signal.signal(number, handler)
            os.close(reading)
            os.close(writing)

    def _stop(self, hard: bool) -> None:
        first = hard or not self._stopping
        self._stopping = True
        for child in self._children:
            self._tell_to_stop(child, hard=hard, first=first)

    def _tell_to_stop(self, child: _Child, *, hard: bool = False, first: bool = True) -> None:
        if child.pid is None:
            return
        if first:
            grace = 0 if hard else self._settings.grace
            child.kill_at = time.monotonic() + grace + KILL_AFTER
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, HARD if hard else signal.SIGTERM)

    def _replace(self) -> None:
        """Stop the children that are to be replaced; when they have ended, others are started."""
        if self._should_replace is None or self._stopping or time.monotonic() < self._ask_at:
            return
        self._ask_at = time.monotonic() + ASK_EVERY
        for child in self._children:
            if child.process is None or child.kill_at is not None:
                continue
            try:
                replaced = self._should_replace(child.process)
            except Exception:
                log.exception("should_replace failed; worker process %s goes on", child.pid)
                continue
            if replaced:
                log.info("worker process %s is to be replaced", child.pid)
                self._tell_to_stop(child)

    # Children

    def _start_due(self) -> None:
        if self._stopping:
            self._children = [child for child in self._children if child.process is not None]
        for child in self._children:
            if child.process is None and child.start_at <= time.monotonic():
                with _signals_blocked():
                    if not self._stopping:
                        self._start(child)

    def _start(self, child: _Child) -> None:
        child.owner = make_owner()
        reading, writing = self._fork.Pipe()
        others = [other.pipe for other in self._children if other.pipe is not None]
        sys.stdout.flush()
        sys.stderr.flush()
        child.process = self._fork.Process(
            target=_child_main,
            args=(
                self._make_source(child.number),
                self._settings,
                child.owner,
                writing,
                [reading, *others],
            ),
            name=f"taskyard-worker-{child.number}",
        )
        child.process.start()
        writing.close()
        child.pipe = reading
        child.ending = b""
        child.started = time.monotonic()
        log.info("started worker process %s", child.process.pid)

    def _make_source(self, number: int) -> Load:
        def load() -> TaskSource:
            source = self._load()
            self._prepare(source, number)
            return source

        return load

    def _watch(self, signalled: int) -> None:
        pipes = {child.pipe: child for child in self._children if child.pipe is not None}
        for item in wait([signalled, *pipes], timeout=self._patience()):
            if item == signalled:
                os.read(signalled, 64)
            elif isinstance(item, Connection):
                self._hear(pipes[item])
        for child in list(self._children):
            # Its sentinel would not do: a process that a handler forked holds that too.
            if child.process is not None and child.process.exitcode is not None:
                self._ended(child, child.process.exitcode)

    def _patience(self) -> float:
        now = time.monotonic()
        times = [child.start_at - now for child in self._children if child.process is None]
        times += [child.kill_at - now for child in self._children if child.kill_at is not None]
        if self._should_replace is not None:
            times.append(self._ask_at - now)
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
        if told == PROGRESS:
            child.progress = time.monotonic()
            young = child.progress - child.started <= YOUNG
            child.delay = child.delay if young else BACKOFF[0]
            return
        child.ending = told[:1]
        if child.ending == REFUSED:
            self._refuse(told[1:])

    def _refuse(self, why: bytes) -> None:
        self._refusal = self._refusal or why.decode(errors="replace")

    def _ended(self, child: _Child, code: int) -> None:
        self._bury(child)
        if child.ending == REFUSED and not self._stopping:
            self._stop(hard=False)
        if not child.ending:
            self._died(child, code)
        drained = child.ending == DRAINED and self._settings.burst
        if self._stopping or drained or child.ending == DISMISSED:
            self._children.remove(child)

    def _bury(self, child: _Child) -> None:
        while child.pipe is not None and child.pipe.poll():
            self._hear(child)
        if child.pipe is not None:
            child.pipe.close()
        # A signal may come in between: it must not find a process that is closed.
        process, child.process, child.pipe, child.kill_at = child.process, None, None, None
        if process is not None:
            process.close()
        child.start_at = time.monotonic()

    def _died(self, child: _Child, code: int) -> None:
        name = signal.Signals(-code).name if code < 0 else f"code {code}"
        if self._stopping and code in (-signal.SIGTERM, -HARD):
            # A worker listens to these as long as it holds anything.
            log.info("a worker process that was not at work ended (%s)", name)
            return
        log.error("a worker process died (%s); its claims are given back", name)
        self._give_back(child.owner)
        if time.monotonic() - child.started < YOUNG:
            child.start_at = time.monotonic() + child.delay
            child.delay = min(child.delay * 2, BACKOFF[1])

    def _give_back(self, owner: str) -> None:
        # In a child of its own: this process must never hold a connection when it forks.
        reading, writing = self._fork.Pipe(duplex=False)
        with reading:
            reaper = self._fork.Process(
                target=_reaper_main, args=(self._load, owner, self._settings, writing)
            )
            with _signals_blocked():
                reaper.start()
            writing.close()
            reaper.join(self._settings.lease)
            with contextlib.suppress(EOFError):
                if reading.poll():
                    self._refuse(reading.recv_bytes())
                    self._stop(hard=False)

    def _kill_late(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.kill_at is not None and child.kill_at <= now:
                child.kill_at = now + KILL_AFTER
                log.error("worker process %s does not end; killing it", child.process.pid)
                child.process.kill()

    # Health

    def _write_health(self) -> None:
        stuck = [child for child in self._children if self._is_late(child)]
        for child in stuck:
            if not child.stuck:
                log.warning(
                    "worker process %s makes no progress", child.pid or f"number {child.number}"
                )
        for child in self._children:
            child.stuck = child in stuck
        if self._settings.health_file and not stuck and not self._stopping:
            with contextlib.suppress(OSError):
                Path(self._settings.health_file).touch()

    def _is_late(self, child: _Child) -> bool:
        return time.monotonic() - child.progress > max(HEALTHY, self._settings.lease)


def _notice(number: int, frame: object) -> None:
    """What is called for a signal that is only to end a wait."""


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """A signal while only one of two processes knows of the other would be lost for that one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPPING, HARD))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals(to: signal.Handlers) -> None:
    """In a child: drop the supervisor's handlers, and leave what tells it to stop to the system."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Ctrl-C goes to the whole foreground group; the supervisor passes one signal on for it.
    for number in STOPPING:
        signal.signal(number, to if number == signal.SIGTERM else signal.SIG_IGN)
    signal.signal(HARD, to)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPPING, HARD))


def _child_main(
    load: Load,
    settings: WorkerSettings,
    owner: str,
    pipe: Connection,
    foreign: list[Connection],
) -> None:
    for other in foreign:
        other.close()
    _leave_signals(signal.SIG_DFL)
    code = 0
    try:
        told = _work(load, settings, owner, pipe)
    except TaskyardError as error:
        why = str(error)[:LONGEST_REFUSAL] or type(error).__name__
        told = REFUSED + why.encode(errors="replace")
    except BaseException:
        log.exception("a worker process failed")
        told, code = b"", 1
    if told:
        with contextlib.suppress(OSError):
            pipe.send_bytes(told)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A handler's thread that never ends must not keep the process: what it held was given back.
    os._exit(code)


def _work(load: Load, settings: WorkerSettings, owner: str, pipe: Connection) -> bytes:
    os.environ[SUPERVISED] = "1"
    source = load()
    check_shared(source)
    worker = serve(
        source, settings, owner=owner, progress=_Reporter(pipe), supervisor=pipe.fileno()
    )
    if worker.dismissed:
        return DISMISSED
    return STOPPED if worker.stopping else DRAINED


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


def _reaper_main(load: Load, owner: str, settings: WorkerSettings, pipe: Connection) -> None:
    _leave_signals(signal.SIG_IGN)
    try:
        source = load()
        driver = source.broker.driver()
        before = _buried(source, driver)
        driver.run(source.broker.reap([owner]))
        driver.run(source.broker.workers.retire([owner]))
        dead = _buried(source, driver) - before
        driver.close()
        for queue, number in dead.items():
            log.error("%s of queue %s dead: %s", number, queue, Reason.WORKER_LOST)
        if dead and settings.ends_with(Failure(Reason.WORKER_LOST)):
            why = f"stopped at the first dead letter: of queue {min(dead)!r}, {Reason.WORKER_LOST}"
            pipe.send_bytes(why.encode())
    except Exception:
        log.exception("the claims of a dead worker process could not be given back at once")
    logging.shutdown()
    os._exit(0)


def _buried(source: TaskSource, driver: Driver) -> Counter[str]:
    """How many dead letters each queue of the source has had."""
    queues = {task.policy.queue for task in source.tasks.values()}
    buried: Counter[str] = Counter()
    for counts in driver.run(source.broker.counts()):
        if counts.group.queue in queues:
            buried[counts.group.queue] += counts.totals.get("dead", 0)
    return buried
