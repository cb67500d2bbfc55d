"""The interface of worker-dispatcher: a list of tasks over threads or processes, and its TPS.

A program for the original runs with the prefix: `from taskyard.compat import worker_dispatcher`.
"""

from taskyard.compat.worker_dispatcher.config import default_config
from taskyard.compat.worker_dispatcher.last import (
    get_duration,
    get_last_config,
    get_logs,
    get_result_info,
    get_results,
)
from taskyard.compat.worker_dispatcher.start import start
from taskyard.compat.worker_dispatcher.tps import get_tps, result_is_success

__all__ = [
    "default_config",
    "get_duration",
    "get_last_config",
    "get_logs",
    "get_result_info",
    "get_results",
    "get_tps",
    "result_is_success",
    "start",
]
