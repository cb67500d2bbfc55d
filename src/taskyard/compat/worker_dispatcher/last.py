"""What the last `start()` left: the document's functions take it from here."""

from __future__ import annotations

from typing import Any

__all__ = [
    "get_duration",
    "get_last_config",
    "get_logs",
    "get_result_info",
    "get_results",
    "last",
]


class _Last:
    """A module's state, as the document's interface is made of functions.

    Attributes:
        config: the configuration with all defaults.
        logs: one per task that has ended.
        results: their results.
        info: when it began and ended.
    """

    def __init__(self) -> None:
        self.begin({})

    def begin(self, config: dict[str, Any]) -> None:
        """Forget the run before: nothing of it is to be taken for a part of this one."""
        self.config = config
        self.logs: list[dict[str, Any]] = []
        self.results: list[Any] = []
        self.info: dict[str, float] = {}

    def end(
        self, config: dict[str, Any], logs: list[dict[str, Any]], started: float, ended: float
    ) -> list[Any]:
        """Keep what a run has left.

        Arguments:
            config: the configuration of that run: a task may have begun another one meanwhile.
            logs: the document's dictionaries.
            started: when it began, as unix seconds.
            ended: when it ended.

        Returns:
            The results.
        """
        self.config = config
        self.logs = logs
        self.results = results = [log["result"] for log in logs]
        self.info = {"started_at": started, "ended_at": ended, "duration": ended - started}
        return results


last = _Last()


def get_results() -> list[Any]:
    """The results of the last `start()`, in the order of the tasks."""
    return last.results


def get_logs() -> list[dict[str, Any]]:
    """The logs of the last `start()`, in the order of the tasks.

    Returns:
        Dictionaries with `task_id` (from 1), `started_at` and `ended_at` (unix seconds),
        `duration` (seconds), `result` and `metadata`.
    """
    return last.logs


def get_result_info() -> dict[str, float]:
    """When the last `start()` began and ended.

    Returns:
        `started_at` and `ended_at` (unix seconds), and `duration` (seconds); empty before.
    """
    return last.info


def get_duration() -> float | None:
    """Seconds that the last `start()` took; None: there was none."""
    return last.info.get("duration")


def get_last_config() -> dict[str, Any]:
    """The configuration of the last `start()`, with all defaults; empty before."""
    return last.config
