"""The command of a benchmark that measures ours beside others': its options, its tables."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.compat.beside import OURS, Bench, Row
from bench.machine import describe
from bench.measure import ROOT, Place
from bench.rows import number

__all__ = ["main"]


def main(package: str, names: tuple[str, ...], make: type[Bench], description: str | None) -> int:
    """Measure, show, and tell whether all that we promise is kept.

    Arguments:
        package: below this one; its modules of these names have a function `rows`.
        names: the modules, in this order.
        make: of the bench that they are given.
        description: what `--help` says.
    """
    options = _parse(package, names, description)
    place = Place(options.dir)
    try:
        machine = describe(place.path)
        repeats = options.repeat or (1 if options.quick else 3)
        bench = make(package, place, repeats, quick=options.quick)
        found: dict[str, list[Row]] = {}
        for name in options.names or names:
            found[name] = importlib.import_module(f"bench.{package}.{name}").rows(bench)
            _print(name, found[name])
    finally:
        place.close()
    Console(width=180).print(
        f"{machine['cpu']}, {machine['cores']} cores · {machine['python']} · load before "
        f"{machine['load_before']}",
        highlight=False,
    )
    if options.json:
        _write(options.json, found, machine)
    kept = [kept for rows in found.values() for row in rows for _, kept in row.promises()]
    failed = any(OURS in row.failures for rows in found.values() for row in rows)
    return 0 if all(kept) and not failed else 1


def _parse(package: str, names: tuple[str, ...], description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m bench.{package}", description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="less of everything, one round")
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds (3; quick: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--dir", type=Path, default=ROOT / "build", help="for files (build/)")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(names))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(names)}")
    return options


def _print(title: str, rows: list[Row]) -> None:
    whose = [OURS, *dict.fromkeys(who for row in rows for who in row.samples if who != OURS)]
    shown = Table(title=title, title_justify="left")
    for column in ("", "unit", *whose, "floors"):
        shown.add_column(column, justify="right" if column in whose else "left")
    for row in rows:
        values = [row.value(who) for who in whose]
        promises = [f"{text} {'reached' if kept else 'MISSED'}" for text, kept in row.promises()]
        failures = [f"{who}: {why}" for who, why in row.failures.items()]
        shown.add_row(
            row.name,
            row.unit,
            *("–" if value is None else number(value) for value in values),
            "\n".join([*promises, *failures]),
        )
    Console(width=180).print(shown)


def _write(path: Path, found: dict[str, list[Row]], machine: dict[str, Any]) -> None:
    rows = {
        name: [
            {"name": row.name, "unit": row.unit, "samples": row.samples, "failures": row.failures}
            for row in rows
        ]
        for name, rows in found.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "rows": rows}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
