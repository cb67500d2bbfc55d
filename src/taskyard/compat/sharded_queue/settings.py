"""The settings of the document: assigned, or else from the environment, or else its defaults."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

from taskyard.compat.sharded_queue.changes import note_change
from taskyard.errors import TaskyardError

__all__ = ["SettingError", "ShardedQueueSettings", "settings"]

T = TypeVar("T")

ENVIRONMENT = "QUEUE_"


class SettingError(TaskyardError, ValueError):
    """A setting has a value that it cannot have, or there is none of its name."""


class _Setting(Generic[T]):
    """One setting: an attribute that is looked up whenever it is used.

    Arguments:
        default: its value if nothing is said.
        read: makes a value of what was given; None if it cannot be one.
        wanted: what can.
    """

    def __init__(self, default: T, read: Callable[[Any], T | None], wanted: str) -> None:
        self._default = default
        self._read = read
        self._wanted = wanted
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, settings: None, owner: type) -> Self: ...
    @overload
    def __get__(self, settings: ShardedQueueSettings, owner: type) -> T: ...
    def __get__(self, settings: ShardedQueueSettings | None, owner: type) -> Self | T:
        if settings is None:
            return self
        assigned: T | None = settings.__dict__.get(self.name)
        if assigned is not None:
            return assigned
        variable = f"{ENVIRONMENT}{self.name.upper()}"
        for spelling in (variable, variable.lower()):
            if spelling in os.environ:
                return self._checked(os.environ[spelling], spelling)
        return self._default

    def __set__(self, settings: ShardedQueueSettings, value: T) -> None:
        settings.__dict__[self.name] = self._checked(value, f"settings.{self.name}")
        note_change()

    def __delete__(self, settings: ShardedQueueSettings) -> None:
        settings.__dict__.pop(self.name, None)
        note_change()

    def _checked(self, given: object, where: str) -> T:
        try:
            value = None if isinstance(given, bool) else self._read(given)
        except (TypeError, ValueError, OverflowError):
            value = None
        if value is None:
            raise SettingError(f"{where} must be {self._wanted}, not {given!r}")
        return value


def _whole(default: int, least: int | None = None) -> _Setting[int]:
    def read(given: Any) -> int | None:
        number = int(given)
        exact = isinstance(given, str) or number == given
        return number if exact and (least is None or number >= least) else None

    wanted = "a whole number" if least is None else f"a whole number of at least {least}"
    return _Setting(default, read, wanted)


def _number(default: float) -> _Setting[float]:
    def read(given: Any) -> float | None:
        number = float(given)
        return number if math.isfinite(number) and number >= 0 else None

    return _Setting(default, read, "a number of at least 0")


def _text(default: str) -> _Setting[str]:
    def read(given: Any) -> str | None:
        return given if isinstance(given, str) else None

    return _Setting(default, read, "a text")


class ShardedQueueSettings:
    """The nine settings; each is read when it is used.

    What is assigned wins over the environment variable `QUEUE_…` of its name, and that over the
    default. `del settings.name` forgets what was assigned. Running workers go on by what is
    assigned, after what they handle at that moment.

    Arguments:
        assigned: values by name.

    Attributes:
        coordinator_delay: seconds; has no effect here: workers are woken, they do not look again.
        coordinator_prefix: has no effect here: there are no lock keys to name.
        coordinator_timeout: seconds after which a thread is taken from a worker that is silent;
            more than 30 count as 30, and a live worker renews in time.
        default_priority: of a `Route` that names none.
        default_thread: of a `Route` that names none.
        tube_prefix: what the names of the queues of handlers begin with.
        worker_batch_size: requests that a handler gets at once.
        worker_empty_limit: together with `worker_empty_pause`, for how long a thread is kept, and
            a loop with a limit goes on, when there is nothing.
        worker_empty_pause: seconds; both are multiplied.

    Raises:
        SettingError: a value is wrong, or there is no setting of the name.
    """

    coordinator_delay = _number(1.0)
    coordinator_prefix = _text("lock_")
    coordinator_timeout = _whole(24 * 60 * 60, least=1)
    default_priority = _whole(0)
    default_thread = _whole(0)
    tube_prefix = _text("tube_")
    worker_batch_size = _whole(128, least=1)
    worker_empty_limit = _whole(16, least=0)
    worker_empty_pause = _number(0.1)

    def __init__(self, **assigned: Any) -> None:
        for name, value in assigned.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(getattr(type(self), name, None), _Setting):
            known = ", ".join(name for name in vars(type(self)) if not name.startswith("_"))
            raise SettingError(f"there is no setting {name!r}; there are {known}")
        object.__setattr__(self, name, value)


settings = ShardedQueueSettings()
