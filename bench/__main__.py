"""`python -m bench`: measure, print a table, write JSON, draw a chart."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from bench import beside_rows, process_rows, redis_rows, sqlite_rows
from bench.machine import describe, fsync_us
from bench.measure import ROOT, Place
from bench.redis_server import find_server
from bench.report import draw, footnote, table, write_json
from bench.rows import Bench, Row

Measurements: TypeAlias = dict[str, Callable[[Bench], list[Row]]]

SQLITE: Measurements = {
    "put": sqlite_rows.putting,
    "put_one": sqlite_rows.putting_singly,
    "drain": sqlite_rows.draining,
    "limited": sqlite_rows.limited,
    "ordered": sqlite_rows.ordered_shards,
    "unique": sqlite_rows.unique,
    "bounded": sqlite_rows.bounded,
    "waiting": sqlite_rows.many_waiting,
    "waiting_shards": sqlite_rows.many_waiting_in_shards,
    "latency": process_rows.latency,
    "together": process_rows.together,
    "import": process_rows.importing,
    "idle": process_rows.idling,
    "idle_beside": beside_rows.idling,
    "tenants": beside_rows.tenants,
    "memory": process_rows.memory,
}
REDIS: Measurements = {
    "redis_put": redis_rows.putting,
    "redis_drain": redis_rows.draining,
    "redis_limited": redis_rows.limited,
    "redis_unique": redis_rows.unique,
    "redis_bounded": redis_rows.bounded,
    "redis_fsync": redis_rows.syncing,
    "redis_put_one": redis_rows.putting_singly,
    "redis_latency": redis_rows.latency,
    "redis_shards": redis_rows.many_shards,
    "redis_crowd": redis_rows.crowded,
    "redis_idle_beside": beside_rows.redis_idling,
    "redis_tenants": beside_rows.redis_tenants,
    "redis_cost": redis_rows.costs,
    "redis_delay": redis_rows.delayed_network,
    "redis_memory": redis_rows.memory,
}
SUITES = {
    "sqlite": ("taskyard on SQLite, synchronous=FULL", SQLITE),
    "redis": ("taskyard on Redis, on the same machine", REDIS),
}
SLOW = {"memory"}
"""Not with --quick, unless asked for."""


def main() -> int:
    options = _parse()
    if options.broker == "redis" and find_server() is None:
        print("there is no redis-server; `make servers` gets one", file=sys.stderr)
        return 2
    known = {name: call for _, suite in SUITES.values() for name, call in suite.items()}
    names = options.only.split(",") if options.only else _all(options.broker, options.quick)
    unknown = sorted(set(names) - known.keys())
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    place = Place(options.dir)
    bench = Bench(place, options.quick, options.repeat or (3 if options.quick else 5))
    began = time.monotonic()
    rows: dict[str, list[Row]] = {}
    try:
        machine = describe(place.path) | redis_rows.describe(bench)
        for name in names:
            if sys.stderr.isatty():
                print(f"measuring: {name} …", file=sys.stderr)
            rows[name] = known[name](bench)
        machine["fsync_us_after"] = fsync_us(place.path)
    finally:
        place.close()
    machine["seconds"] = round(time.monotonic() - began)
    for title, suite in SUITES.values():
        if found := [row for name in names if name in suite for row in rows[name]]:
            table(title, found)
    footnote(machine)
    every = [row for found in rows.values() for row in found]
    if options.json:
        write_json(options.json, every, machine, quick=options.quick, repeats=bench.repeats)
    if options.chart:
        draw(options.chart, every, machine)
    return 0


def _all(broker: str | None, quick: bool) -> list[str]:
    brokers = [broker] if broker else [name for name in SUITES if name != "redis" or find_server()]
    names = [name for suite in brokers for name in SUITES[suite][1]]
    return [name for name in names if not (quick and name in SLOW)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer messages and repeats")
    parser.add_argument(
        "--broker", choices=sorted(SUITES), help="only that one (all for which there is a server)"
    )
    parser.add_argument("--only", metavar="NAME,…", help=", ".join([*SQLITE, *REDIS]))
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds (5; quick: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw them (.png or .svg)")
    parser.add_argument(
        "--dir", type=Path, default=ROOT / "build", help="where databases go (build/)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
