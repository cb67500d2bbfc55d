"""Toy scripts that try a shared fragment on its own."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import msgspec
import redis

import taskyard.brokers.redis as package

__all__ = ["LUA", "Fragment"]

LUA = files(package) / "lua"


class Fragment:
    """Runs an expression for many cases by one call, where a fragment is included.

    Arguments:
        client: of the server that runs it.
        name: the fragment's; what it includes itself is left out.
        body: Lua that gives its reply for `case`, a list.
        head: Lua in front of the fragment.
    """

    def __init__(self, client: redis.Redis, name: str, body: str, head: str = "") -> None:
        text = (LUA / "shared" / f"{name}.lua").read_text(encoding="utf-8")
        self._client = client
        self._source = (
            f"{head}\n{text}\nlocal function try(case)\n{body}\nend\n"
            "local replies = {}\n"
            "for index = 1, #ARGV do replies[index] = try(cmsgpack.unpack(ARGV[index])) end\n"
            "return replies"
        )

    def __call__(self, *cases: Any) -> list[Any]:
        """What it replies for each of the cases."""
        packed = [msgspec.msgpack.encode(case) for case in cases]
        return list(self._client.eval(self._source, 0, *packed))


def text_of(name: str) -> str:
    """The text of a script or fragment, as its file holds it."""
    return (LUA / f"{name}.lua").read_text(encoding="utf-8")
