"""The figures of the SQLite broker, with `synchronous=FULL`, and what the project promises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bench.measure import copy, run
from bench.rows import Bench, Row, measured

BARE_PUT = "bare inserts"
BARE_DRAIN = "bare claim-and-delete"


def putting(bench: Bench) -> list[Row]:
    """`enqueue_many` of 100, into one shard and into many."""
    count = bench.count(100_000, 20_000)
    case = partial(bench.case, count=count, size=100)
    rates = bench.rates(
        bare=case("bare.put"),
        plain=case("yards.put"),
        other=case("yards.put", shards=count),
        other_ordered=case("yards.put", shards=count, ordered=True),
    )
    against: dict[str, Any] = {"against": rates["bare"], "base": BARE_PUT}
    return [
        measured("bare_put", "bare: 100 inserts per transaction", rates["bare"]),
        measured(
            "put", "enqueue_many of 100", rates["plain"],
            least=100_000, least_ratio=0.4, **against,
        ),
        measured(
            "put_other_shards", "enqueue_many of 100, every message in another shard",
            rates["other"],
            least=40_000, **against,
        ),
        measured(
            "put_other_ordered", "enqueue_many of 100, every message in another ordered shard",
            rates["other_ordered"], least=40_000, **against,
        ),
    ]  # fmt: skip


def unique(bench: Bench) -> list[Row]:
    """By 100, every message with a unique key that is held until it is done; and without."""
    count = bench.count(100000, 20000)
    rates = bench.rates(
        put=bench.case("yards.put", count=count),
        put_unique=bench.case("yards.put", count=count, unique=True),
        drain=bench.case("yards.drain", count=count),
        drain_unique=bench.case("yards.drain", count=count, unique=True),
    )
    return [
        measured(
            "put_unique", "enqueue_many of 100 with unique keys", rates["put_unique"],
            rates["put"], base="without", least_ratio=0.6,
        ),
        measured(
            "drain_unique", "batch handler of 100 with unique keys", rates["drain_unique"],
            rates["drain"], base="without", least_ratio=0.6,
        ),
    ]  # fmt: skip


def bounded(bench: Bench) -> list[Row]:
    """By 100, into a queue whose length and shards are bounded; and without."""
    count = bench.count(100_000, 20_000)
    limit, small = 10 * count, 1_000
    rates = bench.rates(
        put=bench.case("yards.put", count=count),
        put_bounded=bench.case("yards.put", count=count, max_length=limit),
        drop=bench.case("yards.put", count=count // 5, max_length=small, overflow="drop"),
        drain=bench.case("yards.drain", count=count),
        drain_bounded=bench.case("yards.drain", count=count, max_length=limit),
    )
    return [
        measured(
            "put_bounded", "enqueue_many of 100, bounded", rates["put_bounded"],
            rates["put"], base="not bounded", least_ratio=0.6,
        ),
        measured(
            "put_dropping", "enqueue_many of 100, each drops 100", rates["drop"],
            rates["put"], base="not bounded", note="a dead letter per message",
        ),
        measured(
            "drain_bounded", "batch handler of 100, bounded", rates["drain_bounded"],
            rates["drain"], base="not bounded", least_ratio=0.6,
        ),
    ]  # fmt: skip


def putting_singly(bench: Bench) -> list[Row]:
    """`enqueue`, a message per transaction."""
    count = bench.count(5_000, 1_000)
    rates = bench.rates(
        bare=bench.case("bare.put", count=count, size=1),
        ours=bench.case("yards.put_one_by_one", count=count),
    )
    return [
        measured("bare_put_one", "bare: one insert per transaction", rates["bare"]),
        measured(
            "put_one", "enqueue, one by one", rates["ours"], rates["bare"],
            base="bare one-row commits", least_ratio=0.7,
        ),
    ]  # fmt: skip


def draining(bench: Bench) -> list[Row]:
    """A whole worker: start, run all that waits, end."""
    count = bench.count(100_000, 20_000)
    case = partial(bench.case, "yards.drain", count=count)
    rates = bench.rates(
        bare=bench.case("bare.drain", count=count, size=100),
        batch=case(),
        sync=case(kind="sync"),
        single_async=case(kind="async"),
        result=case(kind="result"),
        shards=case(shards=count),
        shards_ordered=case(shards=count, ordered=True),
    )
    against: dict[str, Any] = {"against": rates["bare"], "base": BARE_DRAIN}
    return [
        measured("bare_drain", "bare: claim and delete 100 per transaction", rates["bare"]),
        measured(
            "drain", "batch handler of 100", rates["batch"],
            least=100_000, least_ratio=0.4, **against,
        ),
        measured(
            "drain_sync", "single-message sync handler", rates["sync"], least=60_000, **against
        ),
        measured("drain_async", "single-message async handler", rates["single_async"], **against),
        measured(
            "drain_result", "single-message sync handler, results kept", rates["result"], **against
        ),
        measured(
            "drain_shards", f"batch handler, {count:,} shards with one message each",
            rates["shards"], least=30_000, **against,
        ),
        measured(
            "drain_shards_ordered",
            f"batch handler, {count:,} ordered shards with one message each",
            rates["shards_ordered"],
            least=30_000, **against,
        ),
    ]  # fmt: skip


def limited(bench: Bench) -> list[Row]:
    """A whole worker, with rate limits that never bind, and without."""
    count = bench.count(100_000, 20_000)
    rates = bench.rates(
        plain=bench.case("yards.drain", count=count),
        limited=bench.case("yards.drain", count=count, limited=True),
    )
    return [
        measured("drain_unlimited", "batch handler of 100", rates["plain"]),
        measured(
            "drain_limited",
            "batch handler of 100, with limits of its task and its shards that never bind",
            rates["limited"], rates["plain"], base="without limits", least_ratio=0.6,
        ),
    ]  # fmt: skip


def ordered_shards(bench: Bench) -> list[Row]:
    """Ten messages in each of 10,000 ordered shards, against as many messages in one."""
    shards = bench.count(10_000, 2_000)
    common: dict[str, Any] = {"count": shards * 10, "ordered": True}
    rates = bench.rates(
        put_one=bench.case("yards.put", shards=1, **common),
        put=bench.case("yards.put", shards=shards, **common),
        drain_one=bench.case("yards.drain", shards=1, **common),
        drain=bench.case("yards.drain", shards=shards, **common),
    )
    return [
        measured("put_ordered", "enqueue_many of 100, one ordered shard", rates["put_one"]),
        measured(
            "put_10k", f"enqueue_many of 100 over 100 of {shards:,} ordered shards", rates["put"],
            rates["put_one"], base="one ordered shard", least_ratio=0.25,
        ),
        measured("drain_ordered", "batch handler, one ordered shard", rates["drain_one"]),
        measured(
            "drain_10k", f"batch handler, 10 messages in each of {shards:,} ordered shards",
            rates["drain"], rates["drain_one"], base="one ordered shard", least_ratio=0.5,
        ),
    ]  # fmt: skip


def many_waiting(bench: Bench) -> list[Row]:
    """A long queue against a short one, in one lane."""
    return _waiting(bench, "waiting", 0, 0, {"put": {"least_ratio": 0.8}})


def many_waiting_in_shards(bench: Bench) -> list[Row]:
    """A long queue in 10,000 ordered shards against a short one, as many in each shard."""
    return _waiting(bench, "waiting_shards", 10_000, 100, {"put": {"least": 20_000}})


def _waiting(
    bench: Bench, name: str, shards: int, short_shards: int, floors: dict[str, dict[str, float]]
) -> list[Row]:
    long, short = bench.count(1_000_000, 100_000), 10_000
    if bench.quick:
        shards //= 10
    with bench.place.folder() as folder:
        run("yards.fill", path=str(folder / "long"), count=long, shards=shards)
        run("yards.fill", path=str(folder / "short"), count=short, shards=short_shards)

        def on_copy(source: str, function: str, **arguments: Any) -> Callable[[], Any]:
            arguments["shards"] = short_shards if source == "short" else shards

            def measure() -> Any:
                with bench.place.folder() as own:
                    copy(folder / source, own / "yard.db")
                    return run(
                        function, path=str(own / "yard.db"), ordered=bool(shards), **arguments
                    )

            return measure

        more = {"count": bench.count(50_000, 10_000), "seed": 8}
        some = bench.count(100_000, 50_000)
        rates = bench.rates(
            put_short=on_copy("short", "yards.put", **more),
            put=on_copy("long", "yards.put", **more),
            drain_short=on_copy("short", "yards.drain_some", most=short),
            drain=on_copy("long", "yards.drain_some", most=some),
        )
    where = f" in {shards:,} ordered shards" if shards else ""
    base = f"{short:,} waiting" + (f" in {short_shards}" if shards else "")
    return [
        measured(f"put_{name}_short", f"enqueue_many of 100 beside {base}", rates["put_short"]),
        measured(
            f"put_{name}", f"enqueue_many of 100 beside {long:,} waiting{where}", rates["put"],
            rates["put_short"], base=base, **floors["put"],
        ),
        measured(f"drain_{name}_short", f"batch handler, {base}", rates["drain_short"]),
        measured(
            f"drain_{name}", f"batch handler, {some:,} of {long:,} waiting{where}", rates["drain"],
            rates["drain_short"], base=base, least_ratio=0.8,
        ),
    ]  # fmt: skip
