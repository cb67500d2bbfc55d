"""Several at once, in threads or in coroutines, each with its share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from time import perf_counter


def in_threads(put_some: Callable[[int, int], object], count: int, threads: int) -> float:
    """The seconds that threads take together.

    Arguments:
        put_some: called in each with its first number, and with how many are its share.
        count: of all threads.
        threads: how many.
    """
    share = count // threads
    started = threading.Barrier(threads + 1)

    def work(first: int) -> None:
        started.wait()
        put_some(first, share)

    workers = [threading.Thread(target=work, args=(n * share,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    started.wait()
    began = perf_counter()
    for worker in workers:
        worker.join()
    return perf_counter() - began


async def in_coroutines(
    put_some: Callable[[int, int], Awaitable[object]], count: int, coroutines: int
) -> float:
    """The seconds that coroutines take together; the arguments are those of `in_threads`."""
    share = count // coroutines
    began = perf_counter()
    await asyncio.gather(*(put_some(n * share, share) for n in range(coroutines)))
    return perf_counter() - began
