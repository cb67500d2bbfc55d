"""`python -m bench`: measure, print a table, write JSON, draw a chart."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench.measure import ROOT, Place
from bench.report import draw, table, write_json
from bench.sqlite_rows import MEASUREMENTS, Bench
from bench.machine import describe


def main() -> int:
    options = _parse()
    names = options.only.split(",") if options.only else list(MEASUREMENTS)
    unknown = sorted(set(names) - MEASUREMENTS.keys())
    if unknown:
        print(
            f"unknown: {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}", file=sys.stderr
        )
        return 2
    place = Place(options.dir)
    bench = Bench(place, options.quick, options.repeat or (3 if options.quick else 5))
    began = time.monotonic()
    rows = []
    try:
        machine = describe(place.path)
        for name in names:
            if sys.stderr.isatty():
                print(f"measuring: {name} …", file=sys.stderr)
            rows += MEASUREMENTS[name](bench)
    finally:
        place.close()
    machine["seconds"] = round(time.monotonic() - began)
    table(rows, machine)
    if options.json:
        write_json(options.json, rows, machine, quick=options.quick, repeats=bench.repeats)
    if options.chart:
        draw(options.chart, rows, machine)
    return 0


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
