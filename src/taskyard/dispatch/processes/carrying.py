"""Getting a function, with what belongs to it, into a process that does not have it."""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import pickle
import sys
from typing import Any

from taskyard.dispatch.processes.wire import dump_whole
from taskyard.errors import MissingExtra, WorkerError

__all__ = ["carried", "main_is_importable", "unpacked"]

ADVICE = (
    "define it at the top of a module, install cloudpickle (pip install 'taskyard[processes]'), or "
    "use start_method='fork'"
)


def carried(job: Any, function: Any) -> bytes:
    """Pickle a job for processes that are not forked from this one.

    By name, where the function has one, so that it is imported there. If it has none, or one of the
    main module, which may be another one there (an interactive session; what is defined below
    `if __name__ == "__main__":`), also as a whole, by cloudpickle.

    Arguments:
        job: what is pickled.
        function: its function.

    Raises:
        MissingExtra: cloudpickle would be needed, and is not installed.
        WorkerError: it cannot be pickled.
    """
    ways: list[bytes] = []
    try:
        ways.append(pickle.dumps(job, pickle.HIGHEST_PROTOCOL))
    except Exception as error:  # noqa: BLE001 - whatever a class's __reduce__ does
        ways.append(_whole(job, function, error))
    else:
        if b"__main__" in ways[0]:
            with contextlib.suppress(MissingExtra, WorkerError):  # it can be imported, presumably
                ways.append(_whole(job, function, None))
    return pickle.dumps(ways)


def _whole(job: Any, function: Any, because: Exception | None) -> bytes:
    name = getattr(function, "__qualname__", repr(function))
    try:
        return dump_whole(job)
    except ImportError:
        raise MissingExtra(
            f"{name} cannot be sent to worker processes by its name ({because}): {ADVICE}"
        ) from None
    except Exception as error:
        raise WorkerError(
            f"{name} cannot be sent to worker processes, as it or something it refers to cannot be "
            f"pickled ({type(error).__name__}: {error}): use start_method='fork', or let it make "
            f"what it needs when it is called"
        ) from error


def main_is_importable() -> bool:
    """Whether processes that are no copies of this one have its main module, too.

    That of an interactive session, of `python -c`, of a program that is read from stdin and of
    `python -m package` they do not have.
    """
    main = sys.modules["__main__"]
    if (spec := getattr(main, "__spec__", None)) is not None:
        return not f".{spec.name}".endswith(".__main__")
    file = getattr(main, "__file__", None)
    begun_in = getattr(multiprocessing.process, "ORIGINAL_DIR", None) or ""
    return file is not None and os.path.exists(os.path.join(begun_in, file))


def unpacked(job: bytes) -> Any:
    """Get a job back.

    Raises:
        WorkerError: what it names cannot be imported here.
    """
    first: Exception | None = None
    for way in pickle.loads(job):  # noqa: S301 - it comes from our own process
        try:
            return pickle.loads(way)  # noqa: S301 - the same
        except Exception as error:  # noqa: BLE001 - whatever importing it does
            first = first or error
    raise WorkerError(
        f"a worker process cannot load the function: {type(first).__name__}: {first}; {ADVICE}"
    ) from first
