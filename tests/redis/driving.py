"""Drivers of both kinds behind one call, and scripts to run with them.

`python -m tests.redis.driving URL` tries what happens after a fork: Python warns of forks in a
process that has threads, as that of the tests has.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tests.servers.proxy import Proxy
from tests.servers.server import RedisServer

from taskyard.brokers.base import Operation
from taskyard.brokers.redis.calls import Call
from taskyard.brokers.redis.drivers import RedisAsyncDriver, RedisDriver
from taskyard.brokers.redis.options import RedisOptions, parse_url
from taskyard.brokers.redis.scripts import Script

__all__ = ["ADD", "ECHO", "KINDS", "SAY", "Driven", "behind", "call", "driven", "script"]

KINDS = ("sync", "async")


def script(source: str) -> Script:
    return Script("toy", source, hashlib.sha1(source.encode()).hexdigest())


ADD = script(
    """
    local saved = redis.call('GET', KEYS[1] .. ':call:' .. ARGV[1])
    local mark = ARGV[2] .. ' '
    if saved and saved:sub(1, #mark) == mark then
        return tonumber(saved:sub(#mark + 1))
    end
    local length = redis.call('RPUSH', KEYS[1] .. ':list', ARGV[4])
    redis.call('SET', KEYS[1] .. ':call:' .. ARGV[1], mark .. length, 'EX', 900)
    return length
    """
)
"""Appends to a list, once for each slot and number."""

ECHO = script("return ARGV")

SAY = script("return loadstring('return ' .. ARGV[4])()")
"""Replies what a Lua expression gives."""


def call(what: Script, *args: Any, tag: str = "t") -> Operation[Any]:
    return (yield Call(what, tag, args))


class Driven:
    """A driver of either kind. Its calls block."""

    def __init__(self, kind: str, options: RedisOptions, **more: Any) -> None:
        self.options = options
        self._threads = ThreadPoolExecutor(16)  # however few processors there are
        self._loop: asyncio.AbstractEventLoop | None = None
        if kind == "async":
            self._loop = asyncio.new_event_loop()
            self._threads.submit(self._loop.run_forever)
        self.driver: Any = (RedisDriver if kind == "sync" else RedisAsyncDriver)(options, **more)

    def run(self, operation: Operation[Any]) -> Any:
        if self._loop is None:
            return self.driver.run(operation)
        return asyncio.run_coroutine_threadsafe(self.driver.run(operation), self._loop).result()

    def begin(self, operation: Operation[Any]) -> Future[Any]:
        """Run it meanwhile."""
        return self._threads.submit(self.run, operation)

    def close(self) -> None:
        if self._loop is None:
            self.driver.close()
        else:
            asyncio.run_coroutine_threadsafe(self.driver.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._threads.shutdown()
        if self._loop is not None:
            self._loop.close()


@contextmanager
def driven(
    kind: str,
    url: str,
    *,
    clock: Callable[[], int] | None = None,
    check: Any = None,
    **tuning: Any,
) -> Iterator[Driven]:
    """Make one for a URL, with some options changed."""
    made = Driven(kind, replace(parse_url(url), **tuning), clock=clock, check=check)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def behind(server: RedisServer, kind: str, **tuning: Any) -> Iterator[tuple[Proxy, Driven]]:
    """Make one that reaches a server through a proxy."""
    with (
        Proxy((server.host, server.port)) as proxy,
        driven(kind, f"redis://{proxy.address}", **tuning) as one,
    ):
        yield proxy, one


def _try_forks(url: str) -> None:
    options = parse_url(url)
    driver = RedisDriver(options)
    slot = driver.run(call(ECHO))[0]
    child = os.fork()
    if child == 0:
        assert driver.run(call(ECHO))[0] != slot
        driver.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert driver.run(call(ECHO))[:2] == [slot, b"2"]
    driver.close()
    _try_async_forks(options)


def _try_async_forks(options: RedisOptions) -> None:
    driver = RedisAsyncDriver(options)
    runner = asyncio.Runner()
    slot = runner.run(driver.run(call(ECHO)))[0]
    child = os.fork()
    if child == 0:
        with asyncio.Runner() as own:
            assert own.run(driver.run(call(ECHO)))[0] != slot
            own.run(driver.close())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert runner.run(driver.run(call(ECHO)))[:2] == [slot, b"2"]
    runner.run(driver.close())
    runner.close()


if __name__ == "__main__":
    _try_forks(sys.argv[1])
