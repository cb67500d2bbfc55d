"""Plugins of all tests, and how many of them run at once."""

from __future__ import annotations

import os

import pytest

pytest_plugins = ["tests.servers.fixtures"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """More than there are processors: many tests wait for a lease to end, or for a failover."""
    return (os.cpu_count() or 1) * 3 // 2
