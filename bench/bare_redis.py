"""The measuring rod on Redis: the same bytes in the same batches through redis-py, not pipelined.

A `path` is the URL of the server.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import msgspec

from bench.bare import Stored
from bench.crowd import in_threads
from bench.payload import FIRST, TEXT, Item, batches
from bench.redis_server import connect

_PREFIX = "0123456789a"
_KEY = "list"
_encode = msgspec.msgpack.Encoder().encode


def _body(number: int, item: Item) -> bytes:
    return _encode(Stored(f"{_PREFIX}{number:05x}", (item,)))


def _nothing(items: list[Item]) -> None: ...


def _fill(path: str, count: int, size: int) -> float:
    made = 0
    with connect(path) as client:
        client.ping()
        began = perf_counter()
        for part in batches(count, size):
            client.rpush(_KEY, *[_body(made + i, item) for i, item in enumerate(part)])
            made += len(part)
        return perf_counter() - began


def put(path: str, count: int, size: int) -> dict[str, Any]:
    """One variadic RPUSH of so many per round trip."""
    seconds = _fill(path, count, size)
    with connect(path) as client:
        length = len(client.lindex(_KEY, 0))
    return {"rate": count / seconds, "bytes": length}


def put_threads(path: str, count: int, threads: int) -> dict[str, Any]:
    """RPUSH, a message per call, from several threads."""
    client = connect(path)

    def put_some(first: int, many: int) -> None:
        for n in range(first, first + many):
            client.rpush(_KEY, _body(n, Item(FIRST + n, TEXT)))

    put_some(0, 1)
    seconds = in_threads(put_some, count, threads)
    client.close()
    return {"rate": count / seconds}


def drain(path: str, count: int, size: int) -> dict[str, Any]:
    """LPOP so many per round trip, decode them, and hand them to a function."""
    _fill(path, count, 1000)
    decode = msgspec.msgpack.Decoder(Stored).decode
    done = 0
    began = perf_counter()
    with connect(path) as client:
        while bodies := client.lpop(_KEY, size):
            _nothing([decode(body).payload[0] for body in bodies])
            done += len(bodies)
    seconds = perf_counter() - began
    assert done == count
    return {"rate": count / seconds}
