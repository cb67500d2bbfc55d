"""Where the servers of the tests come from."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

__all__ = ["KINDS", "Binary", "NotInstalled", "find"]

SERVERS = Path(__file__).parents[2] / ".servers"

KINDS = ("redis", "redis-6.2", "valkey")
"""What tests can ask for: the usual one, the oldest that is supported, the relative."""


class NotInstalled(Exception):
    """There is no such server here; says how to get one."""


class Binary(NamedTuple):
    """A server that can be started.

    Attributes:
        path: the program.
        name: "redis" or "valkey".
        version: its own, as in (7, 0, 15).
    """

    path: Path
    name: str
    version: tuple[int, ...]

    @property
    def has_tls(self) -> bool:
        """Whether it was built with TLS."""
        return _has_tls(self.path)


@functools.cache
def find(kind: str = "redis") -> Binary:
    """Find a server.

    The usual one is what TASKYARD_REDIS_SERVER names, or is on PATH, or was put into `.servers/`
    by scripts/install_redis.py; where there is no Redis at all, it is a Valkey.

    Arguments:
        kind: one of `KINDS`.

    Raises:
        NotInstalled: there is none.
    """
    for path in _candidates(kind):
        if path.is_file():
            return _examine(path)
    raise NotInstalled(f"no {kind} server here; scripts/install_redis.py gets one")


def _candidates(kind: str) -> list[Path]:
    valkey = [SERVERS / "valkey" / "valkey-server", *_on_path("valkey-server")]
    if kind == "valkey":
        return valkey
    if kind == "redis-6.2":
        return [SERVERS / "redis-6.2" / "redis-server"]
    named = os.environ.get("TASKYARD_REDIS_SERVER")
    if named:
        found = shutil.which(named)
        if found is None:
            raise NotInstalled(f"TASKYARD_REDIS_SERVER is {named}, which is no program")
        return [Path(found)]
    return [*_on_path("redis-server"), SERVERS / "redis" / "redis-server", *valkey]


def _on_path(name: str) -> list[Path]:
    found = shutil.which(name)
    return [] if found is None else [Path(found)]


def _examine(path: Path) -> Binary:
    answer = subprocess.run(
        [path, "--version"], capture_output=True, text=True, timeout=30, check=True
    )
    found = re.match(r"(\w+) server v=([\d.]+)", answer.stdout)
    if found is None:
        raise NotInstalled(f"{path} does not say which version it is: {answer.stdout!r}")
    version = tuple(int(part) for part in found[2].split("."))
    return Binary(path, found[1].lower(), version)


@functools.cache
def _has_tls(path: Path) -> bool:
    # With TLS it gets as far as the certificates that it is not given, and ends there.
    options = ["--port", "0", "--tls-port", "1", "--save", "", "--daemonize", "no"]
    answer = subprocess.run(
        [path, *options], capture_output=True, text=True, timeout=30, check=False
    )
    return "tls-cert-file" in answer.stdout
