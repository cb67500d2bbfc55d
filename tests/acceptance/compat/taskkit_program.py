"""A program on taskkit's front door: `python -m tests.acceptance.compat.taskkit_program JSON`.

What its handler does is told by each task, and what it did stands in lists in Redis, on which a
test can wait.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from datetime import timedelta, timezone
from typing import Any

import redis

from taskyard.compat.taskkit import (
    DiscardTask,
    Kit,
    OnlyEarliest,
    RegularSchedule,
    ScheduleEntriesCompatMapping,
    ScheduleEntry,
    Task,
    TaskHandler,
)
from taskyard.compat.taskkit.impl.redis import make_kit

BEGAN = "test:began"
"""What began: JSON of what a task told its handler to do, and of the task."""


def go_key(key: str) -> str:
    """The list in which a task of this key waits for something."""
    return f"test:go:{key}"


class Handler(TaskHandler):
    """Does what the data of a task says: {"do": the name of a method, …}."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client: redis.Redis | None = None

    @property
    def client(self) -> redis.Redis:
        """A connection of this process."""
        if self._client is None:
            self._client = redis.Redis.from_url(
                self.url, decode_responses=True, socket_timeout=None
            )
        return self._client

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_client": None}

    def handle(self, task: Task) -> Any:
        data = json.loads(task.data)
        return getattr(self, f"do_{data['do']}")(task, data)

    def get_retry_interval(self, task: Task, exception: Exception) -> float | None:
        data = json.loads(task.data)
        if data.get("broken_retry"):
            raise RuntimeError("no interval")
        if data.get("discard_retry"):
            raise DiscardTask
        return data.get("interval") if task.retry_count < data.get("retries", 0) else None

    def encode_data(self, group: str, task_name: str, data: Any) -> bytes:
        return json.dumps(data).encode()

    def encode_result(self, task: Task, result: Any) -> bytes:
        return json.dumps([task.name, result]).encode()

    def decode_result(self, task: Task, encoded: bytes) -> Any:
        name, result = json.loads(encoded)
        assert name == task.name
        return result

    # Deeds

    def note(self, task: Task, data: dict[str, Any]) -> None:
        facts = {"pid": os.getpid(), "id": task.id, "name": task.name, "group": task.group}
        more = {"scheduled": task.scheduled, "due": task.due, "retry_count": task.retry_count}
        self.client.rpush(BEGAN, json.dumps({**facts, **more, "key": data.get("key")}))

    def do_echo(self, task: Task, data: dict[str, Any]) -> Any:
        return data["value"]

    def do_facts(self, task: Task, data: dict[str, Any]) -> Any:
        return [task.id, task.group, task.name, task.retry_count, task.due, task.created, task.ttl]

    def do_note(self, task: Task, data: dict[str, Any]) -> None:
        self.note(task, data)

    def do_hold(self, task: Task, data: dict[str, Any]) -> int:
        self.note(task, data)
        assert self.client.blpop([go_key(data["key"])], 50) is not None
        return os.getpid()

    def do_fail(self, task: Task, data: dict[str, Any]) -> None:
        self.note(task, data)
        raise ValueError(f"attempt {task.retry_count}")

    def do_discard(self, task: Task, data: dict[str, Any]) -> None:
        raise DiscardTask

    def do_die_once(self, task: Task, data: dict[str, Any]) -> int:
        self.note(task, data)
        if self.client.set(go_key(data["key"]), "", nx=True):
            os.kill(os.getpid(), signal.SIGKILL)
        return task.retry_count

    def do_ask(self, task: Task, data: dict[str, Any]) -> Any:
        result = make_kit(redis.Redis.from_url(self.url), self).get_result(data["id"])
        return result.get(timeout=20, avoid_assertion=data["avoid"])


def kit_of(url: str) -> Kit:
    """The program's kit."""
    return make_kit(redis.Redis.from_url(url), Handler(url))


def entries_of(schedulers: dict[str, dict[str, dict[str, Any]]]) -> ScheduleEntriesCompatMapping:
    """Schedules by scheduler and key: {"data": …, "encoded": …, "schedule": …}."""
    return {
        scheduler: [
            ScheduleEntry(
                key, RegularSchedule(**one.get("schedule", {})), "g", key,
                json.dumps(one["data"]).encode(), result_ttl=5,
            )
            if one.get("encoded")
            else {
                "key": key,
                "schedule": RegularSchedule(
                    **one.get("schedule", {}), duplication_policy=OnlyEarliest()
                ),
                "group": "g",
                "name": key,
                "data": one["data"],
            }
            for key, one in entries.items()
        ]
        for scheduler, entries in schedulers.items()
    }  # fmt: skip


def say(text: str) -> None:
    """Say something to the test."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(config: dict[str, Any]) -> None:
    """Run workers as the configuration says."""
    url, how = config["url"], config.get("how", "start")
    handler = Handler(url)
    kit = make_kit(redis.Redis.from_url(url, decode_responses=True), handler)
    common: dict[str, Any] = {
        "num_processes": config.get("processes", 1),
        "num_worker_threads_per_group": config["groups"],
        "schedule_entries": entries_of(config.get("schedulers", {})),
        "tzinfo": timezone(timedelta(hours=9), "JST"),
        "polling_interval": {"g": 0.5},
        "helper_services": lambda index: index == 0,
    }
    if how == "start":
        try:
            kit.start(
                **common,
                should_restart=lambda process: bool(
                    handler.client.getdel(go_key(f"replace {process.pid}"))
                ),
            )
        except BaseException as error:
            say(f"left by {type(error).__name__}")
            raise
        say("left")
        return
    multiprocessing.set_start_method(config.get("method", "fork"))
    processes = kit.start_processes(**common, daemon=how == "daemon")
    say(f"pids {[process.pid for process in processes]}")
    if config.get("wait"):
        time.sleep(50)
    for process in processes:
        process.join(50)
    say(f"codes {[process.exitcode for process in processes]}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(json.loads(sys.argv[1]))
