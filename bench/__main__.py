"""`python -m bench`: measure, print a table, write JSON, draw a chart."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import process_rows, sqlite_rows
from bench.machine import describe, fsync_us
from bench.measure import ROOT, Place
from bench.report import draw, table, write_json
from bench.rows import Bench, Row

MEASUREMENTS: dict[str, Callable[[Bench], list[Row]]] = {
    "put": sqlite_rows.putting,
    "put_one": sqlite_rows.putting_singly,
    "drain": sqlite_rows.draining,
    "ordered": sqlite_rows.ordered_shards,
    "waiting": sqlite_rows.many_waiting,
    "waiting_shards": sqlite_rows.many_waiting_in_shards,
    "latency": process_rows.latency,
    "together": process_rows.together,
    "import": process_rows.importing,
    "idle": process_rows.idling,
    "memory": process_rows.memory,
}
SLOW = {"memory"}
"""Not with --quick, unless asked for."""


def main() -> int:
    options = _parse()
    names = options.only.split(",") if options.only else _all(options.quick)
    unknown = sorted(set(names) - MEASUREMENTS.keys())
    if unknown:
        print(
            f"unknown: {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}", file=sys.stderr
        )
        return 2
    place = Place(options.dir)
    bench = Bench(place, options.quick, options.repeat or (3 if options.quick else 5))
    began = time.monotonic()
    rows: list[Row] = []
    try:
        machine = describe(place.path)
        for name in names:
            if sys.stderr.isatty():
                print(f"measuring: {name} …", file=sys.stderr)
            rows += MEASUREMENTS[name](bench)
        machine["fsync_us_after"] = fsync_us(place.path)
    finally:
        place.close()
    machine["seconds"] = round(time.monotonic() - began)
    table(rows, machine)
    if options.json:
        write_json(options.json, rows, machine, quick=options.quick, repeats=bench.repeats)
    if options.chart:
        draw(options.chart, rows, machine)
    return 0


def _all(quick: bool) -> list[str]:
    return [name for name in MEASUREMENTS if not (quick and name in SLOW)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer messages and repeats")
    parser.add_argument("--only", metavar="NAME,…", help=", ".join(MEASUREMENTS))
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds (5; quick: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw them (.png or .svg)")
    parser.add_argument(
        "--dir", type=Path, default=ROOT / "build", help="where databases go (build/)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
