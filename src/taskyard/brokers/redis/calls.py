"""What operations of the Redis broker yield, and what the scripts answer when they refuse."""

from __future__ import annotations

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
    """

    script: Script
    tag: str
    args: Sequence[Argument] = ()


class Each(NamedTuple):
    """Independent calls, some of which may fail: the replies have an exception where one did.

    Attributes:
        calls: the calls.
    """

    calls: list[Call]


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
