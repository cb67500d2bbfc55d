"""How much memory this process has."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["peak", "restart_peak"]

STATUS = Path("/proc/self/status")


def peak() -> int:
    """The most bytes that were resident since the peak was restarted."""
    return _bytes("VmHWM")


def restart_peak() -> int:
    """Forget the peak so far.

    Returns:
        The bytes that are resident now.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _bytes("VmRSS")


def _bytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"))
    assert found is not None, "this needs Linux"
    return int(found[1]) * 1024
