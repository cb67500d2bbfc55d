"""A scene for each test, in a folder with a short path (sockets have little room for one)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.scene import Scene
from tests.faults.stores import RedisStore, SQLiteStore, Store
from tests.servers.fixtures import required
from tests.servers.server import RedisServer


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ty-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def durable_server() -> Iterator[RedisServer]:
    """The session's server that answers only when what it did is on the disk; leave it alone."""
    with RedisServer(binary=required(), appendonly=True, appendfsync="always") as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """The same for one test, which may kill it."""
    with RedisServer(binary=required(), appendonly=True, appendfsync="always") as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, folder: Path) -> Store:
    """What shared brokers there are; "own redis", on `own_server`, is for those who ask for it."""
    match request.param:
        case "own redis":
            return RedisStore(request.getfixturevalue("own_server"), timeout=1)
        case "redis":
            return RedisStore(request.getfixturevalue("durable_server"))
        case _:
            return SQLiteStore(folder / "yard.db")


@pytest.fixture
def scene(folder: Path, store: Store) -> Iterator[Scene]:
    made = Scene(folder, store)
    yield made
    made.close()
