"""Task groups as queues of the core, each with one task of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

from taskyard.brokers.workers import WorkerInfo
from taskyard.errors import PolicyError

__all__ = ["group_of", "queue_of", "quoted", "serves_kit", "task_of"]

_TASK = "taskkit:"
"""What names of our tasks begin with: a queue of the same name may have others, too."""
_NOTHING = "%"
_LONGEST = 200 - len(_TASK)


def quoted(text: object, what: str, also: str = "") -> str:
    """Any text as a printable one, from which `unquote` makes it again.

    Arguments:
        text: what is mostly printable already, and then stays as it is, without a `%`.
        what: what it is called in an error.
        also: characters that are not to be in it.

    Raises:
        PolicyError: it is no text.
    """
    if not isinstance(text, str):
        raise PolicyError(f"{what} must be a text, not {text!r}")
    if text.isprintable() and "%" not in text and not (also and also in text):
        return text
    return re.sub(r".", lambda found: _quoted_one(found[0], also), text, flags=re.DOTALL)


def _quoted_one(character: str, also: str) -> str:
    if character.isprintable() and character not in ("%", also):
        return character
    return quote(character, safe="", errors="surrogatepass")


def queue_of(group: str) -> str:
    """The queue of a task group: mostly of the same name.

    Raises:
        PolicyError: it is no text, or too long.
    """
    queue = quoted(group, "a task group") or _NOTHING
    if len(queue) > _LONGEST:
        raise PolicyError(
            f"a task group must have {_LONGEST} characters at most (each counts as three per byte"
            f" if it is not printable), not {len(queue)}: {group[:40]!r}…"
        )
    return queue


def group_of(queue: str) -> str:
    """The task group of a queue."""
    return "" if queue == _NOTHING else unquote(queue, errors="surrogatepass")


def task_of(queue: str) -> str:
    """The name of the core's task of a queue."""
    return _TASK + queue


def serves_kit(worker: WorkerInfo, queues: Iterable[str] | None) -> bool:
    """Whether a worker is one of a kit, and serves one of these queues (None: any)."""
    served = worker.queues if queues is None else queues
    return any(task_of(queue) in worker.serves.get(queue, ()) for queue in served)
