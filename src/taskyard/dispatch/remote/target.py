"""Where calls are made, if not here: what `on=` means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from taskyard.dispatch.engine import Engine, Job
from taskyard.errors import PolicyError

__all__ = ["Target", "target_of"]

DASK = "dask://"


class Target(Protocol):
    """Somewhere that calls can be made.

    Attributes:
        kind: what to call it in reports.
        window: how many calls may be taken and not ended, unless that is given.
    """

    kind: str
    window: int

    def workers(self, *, open_loop: bool) -> int:
        """How many calls are under way at most, unless that is given."""
        ...

    def check(self, job: Job) -> None:
        """Refuse what cannot be done there.

        Raises:
            PolicyError: something is asked for that it does not do.
        """
        ...

    def engine(self, job: Job) -> Engine:
        """What makes the calls; when it is closed, so is what was opened for it."""
        ...


class _OwnEngine:
    """An engine of the caller's own, which a function makes.

    Arguments:
        make: takes a `Job`, and gives an `Engine`.
    """

    kind = "own engine"
    window = 1000

    def __init__(self, make: Callable[[Job], Engine]) -> None:
        self._make = make

    def workers(self, *, open_loop: bool) -> int:  # noqa: ARG002 - it does what it likes
        return 100

    def check(self, job: Job) -> None:
        """It refuses by itself what it cannot do."""

    def engine(self, job: Job) -> Engine:
        return self._make(job)


def target_of(on: Any, function: Callable[..., Any]) -> Target:
    """Say what `on=` of a run means.

    Arguments:
        on: a URL `dask://host:port`, a `distributed.Client`, a `Yard`, or a function that takes a
            `Job` and gives an `Engine`.
        function: what is to be called; on a yard: one of its tasks.

    Raises:
        PolicyError: it is none of these, or the function does not fit.
        MissingExtra: Dask is not installed.
        BrokerUnavailable: there is no Dask scheduler there.
    """
    if isinstance(on, str) and on.startswith(DASK):
        from taskyard.dispatch.remote.dask import connected

        return connected(f"tcp://{on.removeprefix(DASK)}")
    module = type(on).__module__.partition(".")[0]
    if module == "distributed":
        from taskyard.dispatch.remote.dask import DaskTarget

        return DaskTarget(on)
    if hasattr(on, "broker") and hasattr(on, "task"):
        from taskyard.dispatch.remote.yard import YardTarget

        return YardTarget(on, function)
    if callable(on):
        return _OwnEngine(on)
    raise PolicyError(
        f"on must be a Yard, 'dask://host:port', a distributed.Client or a function that makes an "
        f"Engine, not {on!r}: for the threads and processes of this machine, leave it out"
    )
