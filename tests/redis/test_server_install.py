"""The script that gets the servers of the tests, where it cannot get them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install_redis.py"
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_what_is_missing_is_told(required: bool, named: bool, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(SCRIPT, tmp_path / "scripts")
    environment = {**OFFLINE, "PATH": str(tmp_path)}
    if required:
        environment["TASKYARD_REQUIRE_SERVERS"] = "1"
    if named:
        environment["TASKYARD_REDIS_SERVER"] = "/opt/redis/bin/redis-server"
    answer = subprocess.run(
        [sys.executable, script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == (1 if required else 0)
    assert "valkey: " in answer.stderr
    assert "redis-6.2: " in answer.stderr
    assert ("TASKYARD_REDIS_SERVER" in answer.stderr) == (not named)
    assert list((tmp_path / ".servers").iterdir()) == []
