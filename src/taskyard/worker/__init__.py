"""Lease, run, settle: the worker, its handlers' life, and the supervisor of its processes."""

from taskyard.worker.processes import start_workers
from taskyard.worker.run import run_worker
from taskyard.worker.settings import WorkerSettings
from taskyard.worker.worker import Worker

__all__ = ["Worker", "WorkerSettings", "run_worker", "start_workers"]
