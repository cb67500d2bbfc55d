"""The Lua scripts: one file per verb, with what they share put in front."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

__all__ = ["NAMES", "READING", "STORING", "UNCONFIRMED", "WRITING", "Script", "load_script"]

NAMES = (
    "accept",
    "agenda",
    "attend",
    "bound",
    "cancel",
    "change",
    "changed",
    "cleared",
    "closed",
    "collect",
    "counts",
    "dead",
    "declare",
    "double",
    "doubled",
    "explain",
    "export",
    "extend",
    "forget",
    "gate",
    "gone",
    "guard",
    "held",
    "hold",
    "import",
    "lanes",
    "leave",
    "letters",
    "limit",
    "mail",
    "oldest",
    "open",
    "park",
    "part",
    "places",
    "plan",
    "pulse",
    "put",
    "reap",
    "records",
    "redrive",
    "release",
    "resettle",
    "retire",
    "schedules",
    "sift",
    "splits",
    "step",
    "tell",
    "tidy",
    "waiting",
    "withdraw",
    "workers",
)

READING = frozenset(
    (
        *("counts", "dead", "explain", "guard", "held", "lanes", "letters", "mail", "oldest"),
        *("records", "schedules", "waiting", "workers"),
    )
)
"""Those that only look. (`records` notes who waits; `places` reads if it gets no queues.)"""

STORING = frozenset(("accept", "places", "put"))
"""Those that a put calls."""

UNCONFIRMED = READING | {
    *("agenda", "attend", "declare", "extend", "forget", "leave", "reap", "resettle", "retire"),
    *("step", "tidy"),
}
"""Those that need not wait for replicas: they only read, or what a failover loses of them is made
up for: a message whose settling or claim is lost is delivered again."""

WRITING = frozenset(("redrive",))
"""Those that write whatever they find. This one makes room, so it must do where memory is full."""

_INCLUDE = re.compile(r"-- include (\w+)\n")  # without "^", which would be tried everywhere


class Script(NamedTuple):
    """A script as the server gets it.

    Attributes:
        name: its verb.
        source: its text, whole.
        sha: the SHA-1 of the text, by which the server knows it.
    """

    name: str
    source: str
    sha: str


@cache
def load_script(name: str) -> Script:
    """Read a script and the fragments that it includes, each once.

    Arguments:
        name: the verb, one of `NAMES`.
    """
    seen: set[str] = set()
    found: list[str] = []

    def add(file: str) -> None:
        for index, part in enumerate(_cut(file)):
            if index % 2 == 0:
                found.append(part)
            elif part not in seen:
                seen.add(part)
                add(f"shared/{part}")

    add(name)
    source = "".join(found)
    return Script(name, source, hashlib.sha1(source.encode()).hexdigest())  # noqa: S324  # Redis's


@cache
def _cut(file: str) -> list[str]:
    """A file, cut where it includes others: text, name of a fragment, text…; most are shared."""
    return _INCLUDE.split((files(__package__) / "lua" / f"{file}.lua").read_text(encoding="utf-8"))
