"""The interface of task-dispenser: values are added to queues, and handed over in batches.

A program for the original runs with the prefix: `from taskyard.compat.task_dispenser import
Dispenser`, and `from taskyard.compat import task_dispenser` for the module.
"""

from taskyard.compat.task_dispenser import utils
from taskyard.compat.task_dispenser.client import DispenserClient
from taskyard.compat.task_dispenser.dispenser import Dispenser

__all__ = ["Dispenser", "DispenserClient", "utils"]
