"""What of the image and the composition runs without Docker. (`make lint` checks the files.)"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from tests.acceptance.programs import Program
from tests.servers.fixtures import required
from tests.servers.server import free_port, wait_until

ROOT = Path(__file__).parents[2]
PASSWORD = "pa ss/@:'$x"


@pytest.fixture
def services() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_the_composition(services: Any, tmp_path: Path) -> None:
    port = free_port()
    server = required().path
    environment = {**os.environ, "PATH": f"{server.parent}{os.pathsep}{os.environ['PATH']}"}
    script = [part.replace("$$", "$") for part in services["redis"]["command"]]
    assert "dir /data\n" in script[-1]
    script[-1] = script[-1].replace("dir /data\n", f"dir {tmp_path}\nport {port}\n")
    environment["REDISCLI_AUTH"] = environment["TASKYARD_REDIS_PASS"] = PASSWORD
    programs = [Program(script, tmp_path, environment)]
    try:
        with redis.Redis(port=port, password=PASSWORD) as client:
            wait_until(client.ping, "the server")
            assert client.config_get("appendfsync") == {"appendfsync": "always"}
        with redis.Redis(port=port) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        line = services["worker"]["command"].replace("--redis-host redis", f"-P {port}")
        for word in ("start", "add -t q1 1 -n 3"):
            name, *rest = shlex.split(line) if word == "start" else ["task-dispenser"]
            assert name == "task-dispenser"
            rest = rest or [*shlex.split(word), "-P", str(port)]
            command = [sys.executable, "-m", "taskyard.compat.task_dispenser", *rest]
            programs.append(Program(command, ROOT, environment))
        programs[1].wait_for(r"^\[1, 1, 1\]$")
        assert programs[1].stop() == 0
    finally:
        for program in programs:
            program.destroy()


def test_both_services_use_the_same_password(services: Any) -> None:
    given = {
        services["redis"]["environment"]["REDISCLI_AUTH"],
        services["worker"]["environment"]["TASKYARD_REDIS_PASS"],
    }
    assert len(given) == 1
    assert services["worker"]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    (published,) = services["redis"]["ports"]
    assert published.startswith("127.0.0.1:")


def test_the_image_runs_any_command_and_its_context_is_complete() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "ENTRYPOINT" not in dockerfile  # so `docker run taskyard task-dispenser add …` works
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [line.split()[1:-1] for line in dockerfile.splitlines() if line.startswith("COPY")]
    names = [name for line in copied for name in line]
    assert sorted(names) == sorted(allowed)
    assert all((ROOT / name).exists() for name in names)
