"""The figures of the Redis broker beside bare redis-py loops, and what the project promises.

Every measurement has a server of its own, on this machine, so that nothing is left of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

from bench.measure import Child, interleaved, run
from bench.redis_server import find_server, redis_server, version
from bench.rows import Bench, Row, measured

BARE_PUT = "bare RPUSH"
BARE_DRAIN = "bare LPOP"
DELAY = 0.001
"""Seconds in each direction: 2 ms a round trip."""


def describe(bench: Bench) -> dict[str, Any]:
    """The server that is measured; nothing if there is none."""
    if find_server() is None:
        return {}
    with bench.place.folder() as folder, redis_server(folder) as url:
        return {"redis": version(url)}


def _case(
    bench: Bench, function: str, *, fsync: str = "", network: float | None = None, **arguments: Any
) -> Callable[[], Any]:
    # To be measured in a fresh process, with a fresh server. With `network` its worker reaches the
    # server through the proxy, so many seconds later in each direction.
    def measure() -> Any:
        with ExitStack() as stack:
            folder = stack.enter_context(bench.place.folder())
            url = stack.enter_context(redis_server(folder, fsync))
            if network is None:
                return run(function, path=url, **arguments)
            via = stack.enter_context(_delayed(url, network))
            return run(function, path=url, via=via, **arguments)

    return measure


@contextmanager
def _delayed(url: str, delay: float) -> Iterator[str]:
    child = Child("delays.serve", port=urlsplit(url).port, delay=delay)
    port = child.line()["port"]
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        child.go()
        child.process.wait()


def putting(bench: Bench) -> list[Row]:
    """`enqueue_many` of 100 and of 1,000."""
    count = bench.count(200_000, 50_000)
    rates = bench.rates(
        bare=_case(bench, "bare_redis.put", count=count, size=100),
        bare_large=_case(bench, "bare_redis.put", count=count, size=1000),
        ours=_case(bench, "yards.put", count=count, size=100),
        large=_case(bench, "yards.put", count=count, size=1000),
    )
    return [
        measured("redis_bare_put", "bare: RPUSH of 100", rates["bare"]),
        measured(
            "redis_put", "enqueue_many of 100", rates["ours"], rates["bare"], base=BARE_PUT,
            least=120_000, least_ratio=0.35,
        ),
        measured("redis_bare_put_1000", "bare: RPUSH of 1,000", rates["bare_large"]),
        measured(
            "redis_put_1000", "enqueue_many of 1,000", rates["large"], rates["bare_large"],
            base=BARE_PUT, least=200_000,
        ),
    ]  # fmt: skip


def draining(bench: Bench) -> list[Row]:
    """A whole worker: start, run all that waits, end."""
    count = bench.count(200_000, 50_000)
    rates = bench.rates(
        bare=_case(bench, "bare_redis.drain", count=count, size=100),
        bare_large=_case(bench, "bare_redis.drain", count=count, size=500),
        batch=_case(bench, "yards.drain", count=count),
        large=_case(bench, "yards.drain", count=count, batch=500),
        sync=_case(bench, "yards.drain", count=count, kind="sync"),
        single_async=_case(bench, "yards.drain", count=count, kind="async"),
        result=_case(bench, "yards.drain", count=count, kind="result"),
    )
    singly: dict[str, Any] = {"against": rates["bare"], "base": f"{BARE_DRAIN} of 100"}
    return [
        measured("redis_bare_drain", "bare: LPOP of 100", rates["bare"]),
        measured(
            "redis_drain", "batch handler of 100", rates["batch"], rates["bare"], base=BARE_DRAIN,
            least=120_000, least_ratio=0.25,
        ),
        measured("redis_bare_drain_500", "bare: LPOP of 500", rates["bare_large"]),
        measured(
            "redis_drain_500", "batch handler of 500", rates["large"], rates["bare_large"],
            base=BARE_DRAIN, least=300_000,
        ),
        measured(
            "redis_drain_sync", "single-message sync handler", rates["sync"],
            least=60_000, **singly,
        ),
        measured(
            "redis_drain_async", "single-message async handler", rates["single_async"],
            least=40_000, **singly,
        ),
        measured(
            "redis_drain_result", "single-message sync handler, results kept", rates["result"],
            **singly,
        ),
    ]  # fmt: skip


def limited(bench: Bench) -> list[Row]:
    """A whole worker, with rate limits that never bind, and without."""
    count = bench.count(200_000, 50_000)
    rates = bench.rates(
        plain=_case(bench, "yards.drain", count=count),
        limited=_case(bench, "yards.drain", count=count, limited=True),
    )
    return [
        measured("redis_drain_unlimited", "batch handler of 100", rates["plain"]),
        measured(
            "redis_drain_limited",
            "batch handler of 100, with limits of its task and its shards that never bind",
            rates["limited"], rates["plain"], base="without limits", least_ratio=0.6,
        ),
    ]  # fmt: skip


def syncing(bench: Bench) -> list[Row]:
    """The same with an append-only file."""
    return _synced(bench, "everysec", None) + _synced(bench, "always", 70_000)


def _synced(bench: Bench, fsync: str, least: float | None) -> list[Row]:
    count = bench.count(100_000, 20_000)
    more: dict[str, Any] = {"fsync": fsync, "count": count}
    rates = bench.rates(
        bare_put=_case(bench, "bare_redis.put", size=100, **more),
        put=_case(bench, "yards.put", size=100, **more),
        bare_drain=_case(bench, "bare_redis.drain", size=100, **more),
        drain=_case(bench, "yards.drain", **more),
        bare_large=_case(bench, "bare_redis.drain", size=500, **more),
        large=_case(bench, "yards.drain", batch=500, **more),
    )

    def row(
        name: str, title: str, ours: str, bare: str = "", base: str = "", least: float | None = None
    ) -> Row:
        return measured(
            f"redis_{name}_{fsync}", f"{title}, appendfsync {fsync}",
            rates[ours], rates[bare] if bare else None, base=base, least=least,
        )  # fmt: skip

    return [
        row("bare_put", "bare: RPUSH of 100", "bare_put"),
        row("put", "enqueue_many of 100", "put", "bare_put", BARE_PUT, least),
        row("bare_drain", "bare: LPOP of 100", "bare_drain"),
        row("drain", "batch handler of 100", "drain", "bare_drain", BARE_DRAIN, least),
        row("bare_drain_500", "bare: LPOP of 500", "bare_large"),
        row("drain_500", "batch handler of 500", "large", "bare_large", BARE_DRAIN),
    ]


def unique(bench: Bench) -> list[Row]:
    """By 100, every message with a unique key that is held until it is done; and without."""
    count = bench.count(200000, 50000)
    rates = bench.rates(
        put=_case(bench, "yards.put", count=count),
        put_unique=_case(bench, "yards.put", count=count, unique=True),
        drain=_case(bench, "yards.drain", count=count),
        drain_unique=_case(bench, "yards.drain", count=count, unique=True),
    )
    return [
        measured(
            "redis_put_unique", "enqueue_many of 100 with unique keys", rates["put_unique"],
            rates["put"], base="without", least_ratio=0.6,
        ),
        measured(
            "redis_drain_unique", "batch handler of 100 with unique keys", rates["drain_unique"],
            rates["drain"], base="without", least_ratio=0.6,
        ),
    ]  # fmt: skip


def bounded(bench: Bench) -> list[Row]:
    """By 100, into a queue whose length and shards are bounded; and without."""
    count = bench.count(200_000, 50_000)
    limit, small = 10 * count, 1_000
    rates = bench.rates(
        put=_case(bench, "yards.put", count=count),
        put_bounded=_case(bench, "yards.put", count=count, max_length=limit),
        drop=_case(bench, "yards.put", count=count // 5, max_length=small, overflow="drop"),
        drain=_case(bench, "yards.drain", count=count),
        drain_bounded=_case(bench, "yards.drain", count=count, max_length=limit),
    )
    return [
        measured(
            "redis_put_bounded", "enqueue_many of 100, bounded", rates["put_bounded"],
            rates["put"], base="not bounded", least_ratio=0.6,
        ),
        measured(
            "redis_put_dropping", "enqueue_many of 100, each drops 100", rates["drop"],
            rates["put"], base="not bounded", note="a dead letter per message",
        ),
        measured(
            "redis_drain_bounded", "batch handler of 100, bounded", rates["drain_bounded"],
            rates["drain"], base="not bounded", least_ratio=0.6,
        ),
    ]  # fmt: skip


def putting_singly(bench: Bench) -> list[Row]:
    """`enqueue`, a message per call, from one and from several."""
    count = bench.count(20_000, 4_000)
    rates = bench.rates(
        bare=_case(bench, "bare_redis.put_threads", count=count, threads=1),
        bare_8=_case(bench, "bare_redis.put_threads", count=count, threads=8),
        ours=_case(bench, "yards.put_one_by_one", count=count),
        threads=_case(bench, "redis_yards.put_threads", count=count, threads=8),
        coroutines=_case(bench, "redis_yards.put_coroutines", count=count, coroutines=8),
    )
    eight: dict[str, Any] = {"against": rates["bare_8"], "base": f"{BARE_PUT}, 8 threads"}
    return [
        measured("redis_bare_put_one", "bare: RPUSH, one by one", rates["bare"]),
        measured(
            "redis_put_one", "enqueue, one by one", rates["ours"], rates["bare"],
            base=BARE_PUT, least_ratio=0.7,
        ),
        measured("redis_bare_put_8", "bare: RPUSH, one by one, 8 threads", rates["bare_8"]),
        measured("redis_put_8", "enqueue, one by one, 8 threads", rates["threads"], **eight),
        measured(
            "redis_put_8_async", "aenqueue, one by one, 8 coroutines", rates["coroutines"], **eight
        ),
    ]  # fmt: skip


def latency(bench: Bench) -> list[Row]:
    """From `enqueue` to handler start in an idle system, two processes."""
    measure = _case(bench, "processes.latency_producer", count=bench.count(300, 200))
    rounds = [measure()["seconds"] for _ in range(1 if bench.quick else min(3, bench.repeats))]
    cuts = [quantiles(seconds, n=100, method="inclusive") for seconds in rounds]
    title = "enqueue to handler start, idle system, two processes"
    p50, p99 = ([cut[percent - 1] * 1e3 for cut in cuts] for percent in (50, 99))
    return [
        measured("redis_latency_p50", f"{title}, p50", p50, unit="ms", most=1.5),
        measured("redis_latency_p99", f"{title}, p99", p99, unit="ms", most=5),
    ]


def many_shards(bench: Bench) -> list[Row]:
    """10,000 ordered shards of ten messages against one; 100,000 shards of one."""
    shards, lone = bench.count(10_000, 2_000), bench.count(100_000, 20_000)

    def both(name: str, **arguments: Any) -> dict[str, Callable[[], Any]]:
        return {
            f"put_{name}": _case(bench, "yards.put", **arguments),
            f"drain_{name}": _case(bench, "yards.drain", **arguments),
        }

    rates = bench.rates(
        **both("one", count=shards * 10, shards=1, ordered=True),
        **both("many", count=shards * 10, shards=shards, ordered=True),
        **both("lone", count=lone, shards=lone),
        **both("lone_ordered", count=lone, shards=lone, ordered=True),
    )
    rows = []
    for verb, what in (("put", "enqueue_many of 100"), ("drain", "batch handler of 100")):
        one = rates[f"{verb}_one"]
        rows += [
            measured(f"redis_{verb}_ordered", f"{what}, one ordered shard", one),
            measured(
                f"redis_{verb}_10k", f"{what}, 10 in each of {shards:,} ordered shards",
                rates[f"{verb}_many"], one, base="one ordered shard", least_ratio=0.5,
            ),
            measured(
                f"redis_{verb}_shards", f"{what}, one in each of {lone:,} shards",
                rates[f"{verb}_lone"], least=45_000,
            ),
            measured(
                f"redis_{verb}_shards_ordered", f"{what}, one in each of {lone:,} ordered shards",
                rates[f"{verb}_lone_ordered"], least=45_000,
            ),
        ]  # fmt: skip
    return rows


def crowded(bench: Bench) -> list[Row]:
    """One ordered shard, beside many that are blocked and many messages that are delayed."""
    lanes, delayed = bench.count(100_000, 10_000), bench.count(1_000_000, 100_000)
    count = bench.count(100_000, 20_000)
    with (
        bench.place.folder() as alone_folder,
        bench.place.folder() as crowded_folder,
        redis_server(alone_folder) as alone,
        redis_server(crowded_folder) as crowd,
    ):
        run("redis_yards.crowd", path=crowd, lanes=lanes, delayed=delayed)

        def case(url: str) -> Callable[[], Any]:
            return lambda: run("redis_yards.put_and_drain", path=url, count=count)

        samples = interleaved(bench.repeats, {"alone": case(alone), "crowded": case(crowd)})
    where = f"beside {lanes:,} blocked shards and {delayed:,} delayed messages"
    rows = []
    for verb, what in (("put", "enqueue_many of 100"), ("drain", "batch handler of 100")):
        without, beside = ([reply[verb] for reply in samples[name]] for name in samples)
        rows += [
            measured(f"redis_{verb}_alone", f"{what}, one ordered shard, nothing else", without),
            measured(
                f"redis_{verb}_crowded", f"{what}, one ordered shard, {where}", beside, without,
                base="nothing else", least_ratio=0.9,
                note="no slower is promised; what is less than a tenth apart is the same",
            ),
        ]  # fmt: skip
    return rows


def costs(bench: Bench) -> list[Row]:
    """What a message costs the server in calls, and in time of its processor."""
    count = bench.count(100_000, 20_000)
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "one": ("one shard", {}),
        "one_ordered": ("one ordered shard", {"shards": 1, "ordered": True}),
        "lone": (f"{count:,} shards of one", {"shards": count}),
        "lone_ordered": (f"{count:,} ordered shards of one", {"shards": count, "ordered": True}),
    }
    samples = interleaved(
        bench.repeats,
        {
            name: _case(bench, "redis_yards.cost", count=count, **arguments)
            for name, (_, arguments) in cases.items()
        },
    )
    rows = []
    for verb, what in (("put", "enqueue_many of 100"), ("drain", "batch handler of 100")):
        for name, (where, _) in cases.items():
            floor: dict[str, Any] = {"most": 0.02} if (verb, name) == ("drain", "one") else {}
            rows += [
                measured(
                    f"redis_{verb}_calls_{name}", f"{what}, {where}: calls of scripts per message",
                    [reply[f"{verb}_calls"] for reply in samples[name]], unit="calls", **floor,
                ),
                measured(
                    f"redis_{verb}_us_{name}", f"{what}, {where}: µs of the server per message",
                    [reply[f"{verb}_us"] for reply in samples[name]], unit="µs",
                ),
            ]  # fmt: skip
    return rows


def delayed_network(bench: Bench) -> list[Row]:
    """2 ms more per round trip."""
    count = bench.count(200_000, 50_000)

    def all_ways(name: str, **arguments: Any) -> dict[str, Callable[[], Any]]:
        ways: dict[str, dict[str, Any]] = {
            "direct": {}, "proxy": {"network": 0.0}, "delay": {"network": DELAY},
        }  # fmt: skip
        return {
            f"{name}_{way}": _case(bench, "yards.drain", count=count, **arguments, **more)
            for way, more in ways.items()
        }

    rates = bench.rates(
        **all_ways("many"),
        **all_ways("large", batch=500),
        **all_ways("ordered", shards=1, ordered=True),
    )
    rows = []
    for name, what, least in (
        ("many", "batch handler of 100, 8 claims in flight", 0.5),
        ("large", "batch handler of 500, 8 claims in flight", None),
        ("ordered", "batch handler of 100, one ordered shard", 0.15),
    ):
        direct, through = rates[f"{name}_direct"], rates[f"{name}_proxy"]
        more: dict[str, Any] = {"base": "the same without", "least_ratio": least}
        rows += [
            measured(f"redis_{name}_direct", what, direct),
            measured(
                f"redis_{name}_proxy", f"{what}, through a proxy", through, direct,
                base="the same without",
            ),
            measured(
                f"redis_{name}_delay", f"{what}, through a proxy that adds 2 ms a round trip",
                rates[f"{name}_delay"], direct, **more,
                note="the proxy works on the same cores; the row above shows what it costs alone",
            ),
        ]  # fmt: skip
    return rows


def memory(bench: Bench) -> list[Row]:
    """What the server needs for a small message that waits."""
    count = bench.count(100_000, 50_000)
    cases: dict[str, tuple[str, dict[str, Any], float]] = {
        "one": ("in one shard", {}, 60),
        "tens": ("in shards of ten", {"shards": count // 10}, 60),
        "lone": ("in shards of one", {"shards": count}, 60 + 300),
        "delayed": ("that is delayed", {"delay": 3600}, 120),
    }
    measure = {
        name: _case(bench, "redis_yards.memory", count=count, **arguments)
        for name, (_, arguments, _) in cases.items()
    }
    replies = {name: case() for name, case in measure.items()}
    return [
        measured(
            f"redis_memory_{name}", f"memory of a waiting message {where}",
            [replies[name]["rate"]], unit="bytes",
            most=round(1.3 * replies[name]["bytes"] + extra),
            note=f"the message itself is {replies[name]['bytes']} bytes",
        )
        for name, (where, _, extra) in cases.items()
    ]  # fmt: skip
