"""The table, the JSON and the chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.rows import Row, number

LONGEST_BAR = 4.0
QUIET = 0.5
"""A load above this, before the first measurement, is somebody else's."""


def _machine_line(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB · "
        f"{machine['system']} · {machine['file_system']}, fsync {machine['fsync_us']} µs "
        f"(at the end {machine['fsync_us_after']}) · "
        f"{', '.join(_versions(machine))} · "
        f"load before {machine['load_before']} · {machine['at']} · took {machine['seconds']} s"
    )


def _versions(machine: dict[str, Any]) -> list[str]:
    versions = [machine["python"], f"SQLite {machine['sqlite']}", f"msgspec {machine['msgspec']}"]
    return [*versions, machine["redis"]] if "redis" in machine else versions


def table(title: str, rows: Sequence[Row]) -> None:
    """Print rows."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("what")
    shown.add_column("median", justify="right")
    shown.add_column("least … most", justify="right")
    shown.add_column("unit")
    shown.add_column("ratio", justify="right")
    shown.add_column("of")
    shown.add_column("promised")
    shown.add_column("met")
    for row in rows:
        met = {True: "[green]yes[/]", False: "[red]NO[/]", None: ""}[row.met]
        spread = (
            "" if row.low is None or row.high is None else f"{number(row.low)} … {number(row.high)}"
        )
        shown.add_row(
            row.title,
            number(row.value),
            spread,
            row.unit,
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.base,
            ", ".join(text for text, _ in row.scores()),
            met,
        )
    _console().print(shown)


def footnote(machine: dict[str, Any]) -> None:
    """Print what the rows were measured on."""
    console = _console()
    console.print(_machine_line(machine), highlight=False)
    if machine["load_before"] > QUIET:
        console.print(
            "[yellow]Other programs were running: the rates are too low, and the ratios of what"
            " commits less often than the bare loop too high. Measure again on a quiet machine."
        )


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=180)


def write_json(
    path: Path, rows: Sequence[Row], machine: dict[str, Any], *, quick: bool, repeats: int
) -> None:
    """Write the rows with the machine they were measured on."""
    content = {
        "machine": machine,
        "quick": quick,
        "repeats": repeats,
        "rows": [row.as_dict() for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def draw(path: Path, rows: Sequence[Row], machine: dict[str, Any]) -> None:
    """Draw how many times over each promise is kept: a bar per promise, the promise at 1."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    bars = [(row, text, score) for row in rows for text, score in row.scores()]
    if not bars:
        return
    figure, axes = pyplot.subplots(figsize=(13, 1.6 + 0.34 * len(bars)), layout="constrained")
    colours = ["#2a7f62" if score >= 1 else "#c0392b" for _, _, score in bars]
    # A promise kept a hundred times over would leave no room for the others.
    shown = [min(score, LONGEST_BAR) for _, _, score in bars]
    axes.barh(range(len(bars)), shown, color=colours, height=0.7)
    for place, (row, text, score) in enumerate(bars):
        figure_ = f"{row.ratio:.2f} of {row.base}" if text.endswith("×") else _with_unit(row)
        beyond = " →" if score > LONGEST_BAR else ""
        axes.text(shown[place] + 0.03, place, f"{figure_}  ({text}){beyond}", va="center", size=8)
    axes.axvline(1, color="black", linewidth=1.2)
    axes.set_yticks(range(len(bars)), [row.title for row, _, _ in bars], size=8)
    axes.invert_yaxis()
    axes.set_xlim(0, LONGEST_BAR * 1.35)
    axes.set_xlabel("how many times over the promise is kept (1: just so)")
    axes.set_title("taskyard: measured against what is promised")
    figure.supxlabel("\n".join(wrap(_machine_line(machine), 150)), size=7, color="#555555")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _with_unit(row: Row) -> str:
    return f"{number(row.value)} {row.unit}"
