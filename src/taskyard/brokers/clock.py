"""The clock of brokers that have no server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Clock", "wall_clock"]

Clock: TypeAlias = Callable[[], int]
"""Gives microseconds since 1970; tests shift it."""


def wall_clock() -> int:
    """Microseconds since 1970, by this machine's clock."""
    return time.time_ns() // 1000
