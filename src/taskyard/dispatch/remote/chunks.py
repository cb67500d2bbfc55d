"""Taking chunks apart."""

from __future__ import annotations

from taskyard.dispatch.engine import Chunk

__all__ = ["one_by_one"]


def one_by_one(chunk: Chunk) -> list[Chunk]:
    """A chunk for each of its calls."""
    return [
        Chunk(
            chunk.ids[at : at + 1],
            chunk.items[at : at + 1],
            None if chunk.planned is None else chunk.planned[at : at + 1],
        )
        for at in range(len(chunk.ids))
    ]
