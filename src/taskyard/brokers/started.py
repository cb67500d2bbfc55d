"""A Redis server of one's own, found by other commands that run in the same directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from taskyard.errors import MissingExtra

if TYPE_CHECKING:
    from taskyard.brokers.redis.server import OwnServer

__all__ = ["start_here", "started_here"]

NOTE = "taskyard.redis"
"""A file in the current directory, as long as a server runs that was started there: its folder."""


@contextlib.contextmanager
def start_here(
    host: str,
    port: int,
    datadir: str | os.PathLike[str] | None = None,
    password: str | None = None,
    *,
    what: str,
) -> Iterator[OwnServer]:
    """Have a server run, and be found from the current directory.

    Arguments:
        host: an address of this machine.
        port: a free one.
        datadir: the folder of its data; None: `taskyard-redis` in the current one.
        password: None: none.
        what: asks for it, to be named in an error.

    Raises:
        MissingExtra: redis-py is not installed, or there is no server to start.
        BrokerError: it did not start.
    """
    try:
        from taskyard.brokers.redis.server import OwnServer
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{what} needs the package {error.name}: pip install 'taskyard[redis]'"
        ) from error
    with OwnServer(host, port, datadir, password) as server:
        note, text = Path(NOTE).absolute(), f"{server.datadir}\n"
        note.write_text(text)
        try:
            yield server
        finally:
            with contextlib.suppress(OSError):
                if note.read_text() == text:  # it may tell of a later one by now
                    note.unlink()


def started_here() -> str | None:
    """The address (`host:port`) of the server that runs for the current directory, if one does."""
    try:
        folder = Path(NOTE).read_text().rstrip("\n")
    except OSError:
        return None
    from taskyard.brokers.redis.server import running_server

    return running_server(folder)
