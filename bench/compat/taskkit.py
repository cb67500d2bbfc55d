"""The front door of taskkit beside the original."""

from __future__ import annotations

from bench.compat.beside import Bench, Floor, Row

__all__ = ["rows"]

ORIGINAL = "taskkit"
PROGRAM = "taskkit_program"
AHEAD = (Floor(1, ORIGINAL),)
HANDLING = (Floor(20, ORIGINAL),)
PICK_UP = (Floor(40, ORIGINAL),)
"""In milliseconds: the original needs half a second."""


def rows(bench: Bench) -> list[Row]:
    """Measure initiating, handling with one worker process, and pick-up."""
    pythons = bench.pythons({ORIGINAL: "taskkit"})
    few = 1_000 if bench.quick else 3_000
    trials = [
        (Row("initiate_task, one by one", "tasks/s", AHEAD), "initiate", {"count": few}),
        (
            Row("initiate_task in 8 threads", "tasks/s", AHEAD),
            "initiate_in_threads",
            {"count": few, "threads": 8},
        ),
        (
            Row("initiate_tasks of 100", "tasks/s", AHEAD),
            "initiate_many",
            {"count": 2 * few},
        ),
        *(
            (
                Row(f"handling, {threads} thread{'s' * (threads > 1)}", "tasks/s", HANDLING),
                "handle",
                {"count": few, "threads": threads},
            )
            for threads in (1, 4)
        ),
        (
            Row("pick-up on an idle system, median", "ms", PICK_UP, less_is_better=True),
            "pick_up",
            {"count": 6 if bench.quick else 15},
        ),
    ]
    return [
        bench.measure(row, pythons, f"{PROGRAM}.{function}", **arguments)
        for row, function, arguments in trials
    ]
