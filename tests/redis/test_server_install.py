"""The scripts that get the servers and the browser of the tests, where they cannot get them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_what_is_missing_is_told(required: bool, named: bool, tmp_path: Path) -> None:
    server = {"TASKYARD_REDIS_SERVER": "/opt/redis/bin/redis-server"} if named else {}
    answer = run("install_redis.py", tmp_path, server, required)
    assert answer.returncode == (1 if required else 0)
    assert "valkey: " in answer.stderr
    assert "redis-6.2: " in answer.stderr
    assert ("TASKYARD_REDIS_SERVER" in answer.stderr) == (not named)
    assert list((tmp_path / ".servers").iterdir()) == []


@pytest.mark.parametrize("required", [False, True])
def test_a_browser_that_is_missing_is_told(required: bool, tmp_path: Path) -> None:
    answer = run("install_browser.py", tmp_path, {}, required)
    assert answer.returncode == (1 if required else 0)
    assert "TASKYARD_BROWSER" in answer.stderr


def test_a_browser_that_is_named_is_not_fetched(tmp_path: Path) -> None:
    named = {"TASKYARD_BROWSER": "/opt/chromium/chromium"}
    answer = run("install_browser.py", tmp_path, named, required=True)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert not (tmp_path / ".servers").exists()


def run(
    name: str, folder: Path, settings: dict[str, str], required: bool
) -> subprocess.CompletedProcess[str]:
    """Run a script of a checkout in which nothing was fetched, on a machine that has nothing."""
    (folder / "scripts").mkdir()
    for module in ("installing.py", name):
        shutil.copy(SCRIPTS / module, folder / "scripts")
    environment = {**OFFLINE, **settings, "PATH": str(folder)}
    if required:
        environment["TASKYARD_REQUIRE_SERVERS"] = "1"
    return subprocess.run(
        [sys.executable, folder / "scripts" / name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
