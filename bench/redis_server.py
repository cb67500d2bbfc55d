"""A Redis server for one measurement."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bench.measure import ROOT

TRIES = 5
PATIENCE = 10.0


def find_server() -> str | None:
    """A redis-server: what TASKYARD_REDIS_SERVER names, on PATH, or from `make servers`."""
    own = ROOT / ".servers" / "redis" / "redis-server"
    named = os.environ.get("TASKYARD_REDIS_SERVER")
    return named or shutil.which("redis-server") or (str(own) if own.exists() else None)


def connect(url: str) -> redis.Redis:
    """A client that neither decodes nor tries again, like taskyard's own."""
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))


@contextmanager
def redis_server(folder: Path, fsync: str = "") -> Iterator[str]:
    """Run a server on a free port.

    Arguments:
        folder: where its files go.
        fsync: `appendfsync`, with an append-only file; "": it keeps nothing.

    Returns:
        Its URL.
    """
    process, port = _start(folder, fsync)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()  # nobody needs what it holds
        process.wait()


def _start(folder: Path, fsync: str) -> tuple[subprocess.Popen[bytes], int]:
    binary = find_server()
    if binary is None:
        raise RuntimeError(
            "there is no redis-server on PATH; `make servers` gets one, or name one in "
            "TASKYARD_REDIS_SERVER"
        )
    for _ in range(TRIES):  # somebody may take the port before the server does
        port = _free_port()
        process = subprocess.Popen([binary, *_settings(port, folder, fsync)])
        if _answers(process, port):
            return process, port
    raise RuntimeError(f"{binary} did not start; its log is in {folder / 'redis.log'}")


def _settings(port: int, folder: Path, fsync: str) -> list[str]:
    # No snapshots, and no rewriting of the log: they would come in the middle of one measurement
    # and not of the next.
    return [
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""),
        *("--appendonly", "yes" if fsync else "no", "--appendfsync", fsync or "no"),
        *("--auto-aof-rewrite-percentage", "0", "--logfile", str(folder / "redis.log")),
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    client = connect(f"redis://127.0.0.1:{port}/0")
    end = time.monotonic() + PATIENCE
    try:
        while process.poll() is None and time.monotonic() < end:
            try:
                # Another server may have the port by now; it is not our child.
                return bool(client.info("server")["process_id"] == process.pid)
            except redis.RedisError:
                time.sleep(0.01)
    finally:
        client.close()
    process.kill()
    process.wait()
    return False


def used_memory(url: str) -> int:
    """The bytes that a server has allocated."""
    with connect(url) as client:
        used: int = client.info("memory")["used_memory"]
        return used


def version(url: str) -> str:
    """What runs there."""
    with connect(url) as client:
        info = client.info("server")
        name = info.get("server_name", "redis")
        number = info.get(f"{name}_version", info["redis_version"])
        return f"{name} {number}"
