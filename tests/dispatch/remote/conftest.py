"""A Dask cluster of processes on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.servers.server import free_port, wait_until

distributed = pytest.importorskip("distributed")

QUICK = {
    # What kills its worker is given up at once, not after three more.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "PYTHONPATH": os.pathsep.join(sys.path),
}


@dataclass
class Cluster:
    """A scheduler, and workers in processes of their own."""

    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"dask://127.0.0.1:{self.port}"


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "dask.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, **QUICK},
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")  # it is never quite idle
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder, port = tmp_path_factory.mktemp("dask"), free_port()
    address = f"tcp://127.0.0.1:{port}"
    quiet = ["--no-dashboard"]
    scheduler = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    worker = ["distributed.cli.dask_worker", address, "--nthreads", "2", "--nworkers", "2"]
    worker += ["--local-directory", str(folder), *quiet]
    with _running([*scheduler, *quiet], folder), _running(worker, folder):

        def listens() -> bool:
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                return True

        wait_until(listens, "the scheduler of the Dask cluster", timeout=50)
        with distributed.Client(address, timeout=30, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=50)
        yield Cluster(port, folder)
