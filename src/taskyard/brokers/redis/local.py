"""A server of one's own at the place that a URL names."""

from __future__ import annotations

import ipaddress
import os

from taskyard.brokers.common import SUPERVISED
from taskyard.brokers.redis.options import parse_url
from taskyard.brokers.redis.server import DATADIR, OwnServer, running_server
from taskyard.errors import BrokerError

__all__ = ["start_local"]


def start_local(url: str) -> OwnServer | None:
    """Start a server where a URL says that one is, unless one of ours runs there.

    Arguments:
        url: of a single server on this machine.

    Returns:
        The server, which is stopped when the program ends; None if another process has it.

    Raises:
        BrokerError: the URL names another machine, something else uses the port, or this is a
            process that does not live as long as the server has to.
        MissingExtra: there is no server to start.
    """
    options = parse_url(url)
    [address] = options.addresses[:1]
    if options.kind or options.tls is not None or not _is_here(address.host, address.port):
        raise BrokerError(
            f"start_server=True starts a server on this machine, without TLS: give a URL like"
            f" redis://127.0.0.1:6379/0, not {options.shown}"
        )
    if running_server(DATADIR) == str(address):
        return None
    if SUPERVISED in os.environ:
        raise BrokerError(
            f"{options.shown}: no server of this folder runs there, and a worker process, which"
            f" is replaced at times, cannot start one that is to stay. Start the program with"
            f" start_server=True first, or a redis-server by itself"
        )
    server = OwnServer(address.host, address.port, password=options.login.password or None)
    server.start()
    return server


def _is_here(host: str, port: int) -> bool:
    if not port:
        return False
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
