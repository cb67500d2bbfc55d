"""Telling workers what to do."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, TypeAlias

from taskyard.brokers.workers import Command, Workers
from taskyard.errors import NotFound, WorkerError
from taskyard.policy import checked_name

__all__ = ["ALL", "Told", "tell"]

Told: TypeAlias = str | Iterable[str]
"""The id of a worker, several, or "all"."""

ALL = "all"


def tell(
    workers: Workers, whom: Told, command: Command | str, queue: str | None
) -> Generator[Any, Any, list[str]]:
    """An operation that tells workers something; see `Yard.tell`.

    Arguments:
        workers: those of a broker.
        whom: their ids, or "all".
        command: what they are told.
        queue: what that concerns; None: all queues.

    Returns:
        The ids of those that were told.

    Raises:
        WorkerError: there is no such command, or what was given is no id.
        NotFound: there is no worker of an id.
    """
    chosen, ids = _checked(command, queue), _ids(whom)
    if whom == ALL:
        present = yield from workers.find()
        ids = [entry.id for entry in present.workers]
    told = yield from workers.tell(ids, chosen.value, queue or "")
    missing = sorted(set(ids) - set(told))
    if missing and whom != ALL:
        others = "; the others were told" if told else ""
        raise NotFound(
            f"there is no worker {', '.join(missing)}{others}. `taskyard workers` lists them: an id"
            f" is that of one run, and expires 15 minutes after the worker was last seen"
        )
    return told


def _ids(whom: Told) -> list[str]:
    given: Any = [whom] if isinstance(whom, str) else whom
    ids = list(given) if isinstance(given, Iterable) else [given]
    for one in ids:
        if not isinstance(one, str):
            raise WorkerError(
                f"a worker is told by its id, as `taskyard workers` shows it, not by {one!r}:"
                f' give an id, several of them, or "{ALL}"'
            )
    return list(dict.fromkeys(ids))


def _checked(command: Command | str, queue: str | None) -> Command:
    try:
        chosen = Command(command)
    except ValueError:
        known = ", ".join(Command)
        raise WorkerError(f"a worker can be told {known}, not {command!r}") from None
    if queue is not None:
        checked_name("queue", queue)
    return chosen
