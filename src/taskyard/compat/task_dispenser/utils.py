"""What goes with a dispenser: functions by their names, and what happens to errors."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any, Never

from taskyard.cli.load import load_object
from taskyard.errors import TaskyardError

__all__ = [
    "TaskDispenserBaseError",
    "TaskFailed",
    "failed_task",
    "import_by_name",
    "log_error",
    "name_here",
    "raise_error",
]

log = logging.getLogger("taskyard.start")

ORIGINAL = "task_dispenser"


class TaskDispenserBaseError(TaskyardError):
    """The root of the errors of this interface."""


class TaskFailed(TaskDispenserBaseError):
    """A function raised. `on_error` gets it.

    Attributes:
        original: what it raised.
        queue: the queue whose batch it was called with.
        func: the function.
        tb: the traceback, as text.
    """

    def __init__(self, original: BaseException, queue: str, func: Callable[..., Any]) -> None:
        super().__init__(original, queue, func)
        self.original = original
        self.queue = queue
        self.func = func
        self.tb = "".join(traceback.format_exception(original))

    def __str__(self) -> str:
        return repr(self.original)

    def get_traceback(self) -> str:
        """The traceback, as text."""
        return self.tb


def import_by_name(name: str) -> Any:
    """Give what has a name.

    Arguments:
        name: that of a builtin (`print`), `module:attribute.attribute` or
            `path/file.py:attribute`. A module `task_dispenser` is this package.

    Raises:
        WorkerError: there is no such thing, or its module fails.
    """
    return load_object(name_here(name))


def name_here(name: str) -> str:
    """Give the name under which is found here what the original calls so.

    Arguments:
        name: see `import_by_name`.
    """
    module, colon, attribute = name.partition(":")
    if colon and (module == ORIGINAL or module.startswith(f"{ORIGINAL}.")):
        module = f"{__package__}{module.removeprefix(ORIGINAL)}"
    return f"{module}{colon}{attribute}"


def failed_task(*args: Any, **kwargs: Any) -> Never:
    """Raise an error, whatever it is called with: to try what happens then.

    Raises:
        ValueError: always.
    """
    del args, kwargs
    raise ValueError("Failed")


def log_error(error: TaskFailed) -> None:
    """Log the error of a function, with its queue and its traceback."""
    name = getattr(error.func, "__name__", repr(error.func))
    log.error("error while executing %s of queue %s\n%s", name, error.queue, error.get_traceback())


def raise_error(error: BaseException) -> Never:
    """Raise the error of a function."""
    raise error
