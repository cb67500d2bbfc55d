"""A Dask cluster that has no workers says nothing; we do."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from pathlib import Path

from distributed import Client
from tests.dispatch.remote.conftest import _running
from tests.servers.server import free_port

from taskyard import run


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "no workers" in record.getMessage():
            self.told.set()


def test_a_cluster_without_workers_is_told(tmp_path: Path) -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    worker = ["distributed.cli.dask_worker", address, "--nthreads", "1"]
    worker += ["--local-directory", str(tmp_path)]
    heard = Heard()
    logger = logging.getLogger("taskyard.run")
    with ExitStack() as stack:

        def bring_one() -> None:
            if heard.told.wait(60):
                stack.enter_context(_running([*worker, "--no-dashboard"], tmp_path))

        logger.addHandler(heard)
        stack.callback(logger.removeHandler, heard)
        stack.enter_context(_running([*scheduler, "--no-dashboard"], tmp_path))
        client = stack.enter_context(Client(address, timeout=60, set_as_default=False))
        bringing = threading.Thread(target=bring_one)
        bringing.start()
        done = run(abs, 3, on=client, workers=1, runtime=90, grace=0)
        bringing.join()
        assert heard.told.is_set()
        assert done.results() == [0, 1, 2]
