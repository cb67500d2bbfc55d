"""What holds for all tests: plugins, Ctrl-C, how many run at once, how patient Hypothesis is."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.servers.fixtures"]


def pytest_configure(config: pytest.Config) -> None:
    """Tell Hypothesis what this run is for.

    On a busy machine any example may be held up for a second: its deadline of 200 ms, and the limit
    to how long it takes to draw examples, would fail without a fault. Tests have a timeout anyway.

    `make test` decides about a change, so it tries the same examples each time: what it finds is of
    that change. The long tests, and those that are chosen with `-m ""`, look for new ones.
    """
    settings.register_profile(
        "taskyard",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=config.option.markexpr == "not long",
    )
    settings.load_profile("taskyard")
    _heed_ctrl_c()


def _heed_ctrl_c() -> None:
    """A shell that starts tests in the background lets them, and what they start, ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """More than there are processors: many tests wait for a lease to end, or for a failover."""
    return (os.cpu_count() or 1) * 3 // 2
