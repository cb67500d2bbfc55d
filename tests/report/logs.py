"""Calls for tests of reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from taskyard.report import Conditions, Samples

START = 1_700_000_000.0


def samples(
    *calls: tuple[float, float] | tuple[float, float, float],
    failed: Iterable[int] = (),
    **conditions: Any,
) -> Samples:
    """Calls that begin and end so many seconds after the start; of three, the first is planned."""
    made = Samples(conditions=Conditions(**conditions))
    for call in calls:
        made.planned.append(START + call[0])
        made.started.append(START + call[-2])
        made.ended.append(START + call[-1])
        made.success.append(1)
    for place in failed:
        made.success[place] = 0
        made.kinds[place] = "ValueError"
    return made
