"""Reading lines as they come, from a file, a pipe or a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from taskyard.brokers.readable import is_readable

__all__ = ["LONGEST", "LineTooLong", "read_lines"]

LONGEST = 16 << 20
QUIET = 0.2
"""Seconds without input after which a pause is told."""
_PIECE = 1 << 16


class LineTooLong(Exception):
    """A line is longer than `LONGEST` bytes."""


def read_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Read lines, and notice pauses.

    Arguments:
        stream: what to read; nothing may have been read from it before.

    Returns:
        The lines without their ends; and None whenever the input pauses, which is the time to do
        something about the lines so far.

    Raises:
        LineTooLong: a line is longer than `LONGEST` bytes.
    """
    begun: list[bytes] = []
    length = 0
    for piece in _pieces(stream):
        if piece is None:
            yield None
            continue
        first, *others = piece.split(b"\n")
        begun.append(first)
        length += len(first)
        if length > LONGEST:
            raise LineTooLong
        if others:
            yield b"".join(begun)
            yield from others[:-1]
            begun, length = [others[-1]], len(others[-1])
    if length:
        yield b"".join(begun)


def _pieces(stream: BinaryIO) -> Iterator[bytes | None]:
    try:
        number = stream.fileno()
    except OSError:  # not a file of the system, so nothing to wait for
        while piece := stream.read(_PIECE):
            yield piece
        return
    while True:
        if not is_readable(number, QUIET):
            yield None
            is_readable(number, None)
        piece = os.read(number, _PIECE)
        if not piece:
            return
        yield piece
