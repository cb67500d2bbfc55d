"""The front door of sharded-queue beside the original, of the document and the newest."""

from __future__ import annotations

from bench.compat.beside import Bench, Floor, Row

__all__ = ["rows"]

DOCUMENT, NEWEST = "0.0.5", "0.2.10"
ORIGINALS = {DOCUMENT: "sharded_queue_document", NEWEST: "sharded_queue_newest"}
PROGRAM = "sharded_queue_program"
THREADS = (1, 10, 100, 1_000)
AT_ONCE = (100, 1_000)
"""Requests of one call of `register`."""
TUNED = 512
"""The size of tuned batches."""

REGISTERING = {100: (Floor(15, DOCUMENT), Floor(15, NEWEST))}
DRAINING = {
    1: (Floor(0.8, DOCUMENT), Floor(0.8, NEWEST)),
    10: (Floor(3, DOCUMENT), Floor(3, NEWEST)),
    100: (Floor(50, DOCUMENT), Floor(50, NEWEST)),
}


def rows(bench: Bench) -> list[Row]:
    """Measure registering and draining with one worker process."""
    pythons = bench.pythons(ORIGINALS)
    # The originals sleep between threads, so nobody waits until they have drained all.
    count, seconds = (20_000, 3.0) if bench.quick else (200_000, 10.0)
    found: list[Row] = []
    for threads in THREADS:
        for at_once in AT_ONCE:
            row = Row(
                f"register, {threads:,} threads, {at_once:,} in a call",
                floors=REGISTERING.get(threads, ()),
            )
            found.append(
                bench.measure(
                    row, pythons, f"{PROGRAM}.register", threads=threads, count=count,
                    at_once=at_once, seconds=seconds / 2,
                )
            )  # fmt: skip
    for threads, batch in [*((threads, 0) for threads in THREADS), (1, TUNED)]:
        settings = f"batches of {batch}" if batch else "default settings"
        floors = DRAINING[1] if batch else DRAINING.get(threads, ())
        row = Row(f"drain, {threads:,} threads, {settings}", floors=floors)
        found.append(
            bench.measure(
                row, pythons, f"{PROGRAM}.drain", threads=threads, count=count, batch=batch,
                seconds=seconds,
            )
        )  # fmt: skip
    return found
