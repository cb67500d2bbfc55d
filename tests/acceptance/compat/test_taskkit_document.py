"""The document of taskkit, as a user would run it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.compat.taskkit_scene import ROOT, Scene
from tests.servers.server import RedisServer

PROGRAM = ROOT / "tests" / "acceptance" / "compat" / "taskkit_document.txt"


@pytest.fixture
def scene(redis_server: RedisServer, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(redis_server.url, tmp_path)
    yield made
    made.close()


def test_workers_beside_the_program(scene: Scene, redis_server: RedisServer) -> None:
    program = scene.run([str(PROGRAM), "beside", str(redis_server.port)])
    assert program.wait() == 0, program.output()
    lines = program.output().splitlines()
    assert [line for line in lines if re.match("timed|value|fail|not", line)] == [
        "timed out",
        "value [{'some_data': 1}, 1]",
        "failed your task name ValueError: {'some_data': 'bad'}",
        "not found another",
    ]


def test_a_busy_loop_with_schedules(scene: Scene, redis_server: RedisServer) -> None:
    program = scene.run([str(PROGRAM), "busy", str(redis_server.port)])
    assert int(float(program.said("test2 SOME DATA").split()[-1])) % 2 == 0
    assert int(float(program.said("test3 2").split()[-1])) % 2 == 1
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
