"""What a worker logs of messages that fail. Texts of errors may tell of the payload: left out."""

from __future__ import annotations

import logging
from typing import Any

from taskyard.brokers.base import Retried
from taskyard.errors import PayloadError, RetryMessage
from taskyard.task import Task
from taskyard.worker.calls import Call, Entry

__all__ = ["log_park", "log_retry", "log_unopened"]

log = logging.getLogger("taskyard.worker")


def log_park(call: Call, entry: Entry, error: BaseException) -> None:
    log.error(
        "shard %r of task %s is parked: its head %s failed with %s",
        call.shard,
        call.task.name,
        entry.id,
        type(error).__name__,  # its text may tell of the payload
        extra={"message_id": entry.id, "task": call.task.name, "shard": call.shard},
    )


def log_unopened(
    task: Task[..., Any], message_id: str, error: PayloadError, waits: Retried
) -> None:
    text = "message %s of task %s is put off by %.0f s, as it cannot be read here: %s"
    fields = {"message_id": message_id, "task": task.name, "queue": task.policy.queue}
    log.warning(text, message_id, task.name, waits.delay / 1e6, error, extra=fields)


def log_retry(task: Task[..., Any], entry: Entry, error: BaseException, outcome: Retried) -> None:
    if isinstance(error, RetryMessage) and error.__cause__ is not None:
        error = error.__cause__  # why the handler asked for it
    fields = {
        "message_id": entry.id,
        "task": task.name,
        "queue": task.policy.queue,
        "attempt": entry.message.attempts + 1,
        "error": type(error).__name__,  # its text may tell of the payload
    }
    text = "message %s of task %s failed in attempt %s with %s; again in %.1f s"
    attempt, kind, delay = fields["attempt"], fields["error"], outcome.delay / 1e6
    log.info(text, entry.id, task.name, attempt, kind, delay, extra=fields)
