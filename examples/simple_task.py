"""A function to try `taskyard start` with:

taskyard start -t q3 examples/simple_task.py:task_func --batch-size 3
taskyard add -t q3 '{"a": 2}' -n 5
"""

from __future__ import annotations

from typing import Any


def task_func(items: list[Any]) -> None:
    print(f"task_func got {len(items)}: {items}")
