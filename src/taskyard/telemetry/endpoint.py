"""An HTTP server that shows the metrics of a worker process (extra `prometheus`)."""

from __future__ import annotations

import logging
import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from taskyard.telemetry.prometheus import BrokerCollector, PrometheusMiddleware
from taskyard.yard import Yard

__all__ = ["serve_metrics"]

log = logging.getLogger("taskyard.telemetry")


def serve_metrics(yard: Yard, listening: socket.socket, *, of_broker: bool) -> None:
    """Measure what this process does, and show it until it ends.

    All that is in prometheus_client's own registry is shown, also what the program measures itself.

    Arguments:
        yard: its workers are measured, unless they are already.
        listening: a bound socket, that listens.
        of_broker: show the broker's numbers too.
    """
    if not any(isinstance(one, PrometheusMiddleware) for one in yard.middleware):
        yard.use_middleware(PrometheusMiddleware())
    if of_broker:
        BrokerCollector(yard)
    server = _Server(listening)
    threading.Thread(target=server.serve_forever, name="taskyard-metrics", daemon=True).start()
    log.info("metrics at http://%s:%s/metrics", *listening.getsockname()[:2])


class _Quiet(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's name
        """Say nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    """Serves at a socket that is bound already."""

    daemon_threads = True

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(listening.getsockname()[:2], _Quiet, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        host, port = listening.getsockname()[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()
        self.set_app(make_wsgi_app())
