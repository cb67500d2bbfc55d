"""A Dask cluster that has no workers says nothing; we do."""

from __future__ import annotations

import logging
import threading

import pytest
from distributed import Client, LocalCluster

from taskyard import run


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "no workers" in record.getMessage():
            self.told.set()


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_a_cluster_without_workers_is_told(heard: Heard) -> None:
    def bring_workers() -> None:
        heard.told.wait(60)
        cluster.scale(1)

    logger = logging.getLogger("taskyard.run")
    logger.addHandler(heard)
    try:
        with (
            LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            bringing = threading.Thread(target=bring_workers)
            bringing.start()
            done = run(abs, 3, on=client, workers=1)
            bringing.join()
    finally:
        logger.removeHandler(heard)
    assert heard.told.is_set()
    assert done.results() == [0, 1, 2]
