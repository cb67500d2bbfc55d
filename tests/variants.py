"""Which variants of a test run every time, and which only in the long test."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

__all__ = ["some_in_short"]


def some_in_short(values: Iterable[Any], often: Collection[Any]) -> list[Any]:
    """Parameters of which only some are tried each time, as each costs seconds.

    Arguments:
        values: all of them; a tuple is several parameters.
        often: those that the short test tries.
    """
    values = list(values)
    unknown = [value for value in often if value not in values]
    assert not unknown, f"they are no variants: {unknown}"
    return [value if value in often else _in_long(value) for value in values]


def _in_long(value: Any) -> Any:
    given = value if isinstance(value, tuple) else (value,)
    return pytest.param(*given, marks=pytest.mark.long)
