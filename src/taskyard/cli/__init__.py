"""The command line: it translates what was typed for the core, and shows what comes back."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line; the entry point of `taskyard` and of `python -m taskyard`."""
    from taskyard.cli.group import taskyard

    taskyard(prog_name="taskyard")
