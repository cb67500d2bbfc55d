"""Calls made in worker processes: `engine` hands them out, `child` makes them."""

from __future__ import annotations

from taskyard.dispatch.processes.engine import ProcessEngine

__all__ = ["ProcessEngine"]
