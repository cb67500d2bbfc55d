"""`Dispenser`: serves queues with functions that take a list."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from taskyard.brokers.started import start_here
from taskyard.brokers.urls import REDIS_HOST, REDIS_PASSWORD, REDIS_PORT, redis_url
from taskyard.compat.task_dispenser.utils import TaskFailed
from taskyard.errors import WorkerError
from taskyard.message import Failure
from taskyard.plain import FailedCall, OnFailed, log_failed, serve_plain
from taskyard.worker import WorkerSettings
from taskyard.worker.run import run_with
from taskyard.yard import Yard

__all__ = ["Dispenser", "OnError"]

log = logging.getLogger("taskyard.start")

OnError: TypeAlias = Literal["fail", "log"] | Callable[[TaskFailed], object] | None


class Dispenser:
    """Serves queues: each function is called with a list of what was added to its queue.

    Use it with `with`, which starts the server if `redis_start` asks for one, and stops it.

    Arguments:
        tasks: a function for each queue, plain or async.
        batch_size: values of one call at most.
        flush_interval: seconds after which a call gets what is there.
        host: of the Redis.
        port: there.
        password: None: that of the environment variable `TASKYARD_REDIS_PASS`, if there is one.
        redis_start: start a server at that host and port.
        procs_number: worker processes; 0: none, functions are called in this one, in a thread.
        on_error: what follows when a function raises; its batch is kept as dead letters in any
            case. "fail": the error is logged, and `run` raises. "log", or None: it is logged. A
            function: is called with the error, a `TaskFailed`, in the process in which it came up;
            if it raises itself, `run` does, too.
        redis_datadir: where the server keeps its data; None: `taskyard-redis` in the current
            directory.
        lease: seconds for which a batch is leased; renewed while the function runs. Later, what a
            killed dispenser had is handed over again.
        grace: seconds that running calls get to end after SIGTERM or Ctrl-C.

    Raises:
        WorkerError: an argument is wrong.
        PolicyError: `batch_size`, `flush_interval` or the name of a queue is.
        MissingExtra: redis-py is not installed.
        BrokerError: the host or the port is none.
    """

    def __init__(
        self,
        tasks: Mapping[str, Callable[..., Any]],
        batch_size: int = 20,
        flush_interval: float = 5,
        host: str = REDIS_HOST,
        port: int = REDIS_PORT,
        password: str | None = None,
        redis_start: bool = False,
        procs_number: int = 0,
        on_error: OnError = "fail",
        *,
        redis_datadir: str | os.PathLike[str] | None = None,
        lease: float = 30.0,
        grace: float = 30.0,
    ) -> None:
        self.tasks = _checked(tasks)
        self.batch_size = batch_size
        self.flush_interval = flush_interval
        self.host = host
        self.port = port
        self.password = password
        self.redis_start = redis_start
        self.procs_number = procs_number
        self.on_error = on_error
        self.redis_datadir = redis_datadir
        self._errors = _Errors(on_error)
        self._settings = WorkerSettings(
            concurrency=1,
            processes=procs_number,
            lease=lease,
            grace=grace,
            bare_inboxes=True,
            fail_fast=self._errors.fail_fast,
        )
        self._server: contextlib.ExitStack | None = None
        self._yard = self._make_yard()

    def __repr__(self) -> str:
        return f"<Dispenser of {', '.join(self.tasks)} at {self._yard.broker.url}>"

    def __enter__(self) -> Self:
        stack = contextlib.ExitStack()
        if self.redis_start:
            password = self.password or os.environ.get(REDIS_PASSWORD)
            stack.enter_context(
                start_here(
                    self.host, self.port, self.redis_datadir, password, what="redis_start=True"
                )
            )
        self._server = stack
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._yard.close()
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def run(self) -> None:
        """Serve the queues until SIGTERM or Ctrl-C; a second one does not wait for running calls.

        Raises:
            WorkerError: a batch failed, or could not be run, with `on_error="fail"`; or it cannot
                work at all.
            BrokerError: the Redis refuses to be used.
        """
        if self.redis_start and self._server is None:
            raise WorkerError(
                "redis_start=True starts the server at `with dispenser:`; call run() inside"
            )
        self._errors.raised = None
        try:
            run_with(self._yard, self._settings)
        except WorkerError as error:
            if self._errors.raised is not None:
                raise self._errors.raised from error
            raise

    def _make_yard(self) -> Yard:
        yard = Yard(redis_url(self.host, self.port, self.password))
        for queue, function in self.tasks.items():
            serve_plain(
                yard,
                queue,
                function,
                called=_name_of(function),
                size=self.batch_size,
                within=self.flush_interval,
                typed=False,
                on_failed=self._errors.on_failed,
            )
        return yard


class _Errors:
    """What follows when a function raises.

    Attributes:
        on_failed: is told of it.
        fail_fast: whether a dead letter ends the worker.
        raised: what the user's function for errors raised in this process.
    """

    def __init__(self, on_error: OnError) -> None:
        self.on_failed: OnFailed = log_failed
        self.fail_fast: bool | Callable[[Failure], bool] = on_error == "fail"
        self.raised: BaseException | None = None
        if callable(on_error):
            self._tell = on_error
            self.on_failed, self.fail_fast = self._pass_on, self._is_over
        elif on_error not in ("fail", "log", None):
            raise WorkerError(
                f"on_error must be 'fail', 'log' or a function of the error, not {on_error!r}"
            )

    def _pass_on(self, call: FailedCall) -> None:
        try:
            self._tell(TaskFailed(call.error, call.queue, call.function))
        except BaseException as error:  # whatever the user's function raises
            log.exception("on_error ends the dispenser")
            self.raised = error

    def _is_over(self, failure: Failure) -> bool:
        del failure
        return self.raised is not None


def _checked(tasks: Any) -> dict[str, Callable[..., Any]]:
    if not isinstance(tasks, Mapping) or not tasks or not all(map(callable, tasks.values())):
        raise WorkerError(
            f"tasks must name queues and a function for each, as in {{'q1': print}}, not {tasks!r}"
        )
    return dict(tasks)


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None) or repr(function)
    module = getattr(function, "__module__", None)
    return f"{module}:{name}" if module and module != "builtins" else name
