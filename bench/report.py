"""The table, the JSON and the chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.rows import Row, number


def _machine_line(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB · "
        f"{machine['system']} · {machine['file_system']}, fsync {machine['fsync_us']} µs · "
        f"{machine['python']}, SQLite {machine['sqlite']}, msgspec {machine['msgspec']} · "
        f"load before {machine['load_before']} · {machine['at']} · took {machine['seconds']} s"
    )


def table(rows: Sequence[Row], machine: dict[str, Any]) -> None:
    """Print the rows."""
    shown = Table(title="taskyard on SQLite, synchronous=FULL", title_justify="left")
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
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    console.print(shown)
    console.print(_machine_line(machine), highlight=False)


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
    """Draw how many times over each promise is kept."""
    raise NotImplementedError
