"""What operations of the Redis broker yield, and what the scripts answer when they refuse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from taskyard.brokers.redis.scripts import Script

__all__ = ["Argument", "Call", "Each", "ScriptError", "container_key"]

Argument: TypeAlias = bytes | str | int | float


class Call(NamedTuple):
    """One call of a script: a whole atomic step.

    Attributes:
        script: what runs.
        tag: of the container of keys that it works on.
        args: what it gets, after what the driver puts in front.
        retry: seconds for which it is tried again, where that is less than the options say.
        timeout: seconds that its reply may take, and connecting, where that is less than the
            options say. What was given up may be carried out late: give it only to calls that
            change nothing.
    """

    script: Script
    tag: str
    args: Sequence[Argument] = ()
    retry: float = math.inf
    timeout: float = math.inf


class Each(list[Call]):
    """Calls that are made at once, each with an outcome of its own.

    That is its reply, or the exception with which it ended. (Of those of a plain list the first one
    is raised.)
    """


class ScriptError(Exception):
    """A script refused, and changed nothing.

    Attributes:
        code: one word, as the script's contract lists it.
        text: the rest of the reply.
    """

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(f"{code} {text}".strip())
        self.code = code
        self.text = text


def container_key(prefix: str, tag: str) -> str:
    """The key that names a container: all its keys begin with it, so all are in one hash slot."""
    return f"{prefix}:{{{tag}}}"
