"""Making connections: by redis-py for threads, and what those of event loops share with them."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis import Redis
from redis import exceptions as errors
from redis.backoff import NoBackoff
from redis.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.retry import Retry

from taskyard.brokers.redis.calls import Argument
from taskyard.brokers.redis.failures import NotRedis, Refusal, refusal
from taskyard.brokers.redis.options import Address, Login, RedisOptions, Tls
from taskyard.errors import BrokerInaccessible

__all__ = [
    "CLIENT_NAME",
    "SyncConnection",
    "client",
    "client_settings",
    "common_error",
    "connection",
    "pack",
    "protocol_mismatch",
    "tls_context",
]

CLIENT_NAME = "taskyard"

_CODES: dict[type[Exception], str] = {
    errors.NoPermissionError: "NOPERM",
    errors.NoScriptError: "NOSCRIPT",
    errors.OutOfMemoryError: "OOM",
    errors.ReadOnlyError: "READONLY",
    errors.BusyLoadingError: "LOADING",
    errors.MasterDownError: "MASTERDOWN",
    errors.ClusterDownError: "CLUSTERDOWN",
    errors.MovedError: "MOVED",
    errors.AskError: "ASK",
    errors.TryAgainError: "TRYAGAIN",
    errors.ClusterCrossSlotError: "CROSSSLOT",
    errors.ExecAbortError: "EXECABORT",
}
"""The code of a reply, which redis-py turns into a class and takes from the text."""
_LEFT = {"BUSY", "MISCONF", "NOREPLICAS", "TASKYARD", "UNKILLABLE", "WRONGTYPE"}
_LEFT.update(_CODES.values())
"""Codes that it leaves in the text, unlike ERR; which ones have a class depends on its version."""


def pack(arguments: Sequence[Argument]) -> bytes:
    """Encode a command as one piece."""
    packed: bytes = hiredis.pack_command(tuple(arguments))  # type: ignore[arg-type] # any number
    return packed


def common_error(error: Exception) -> Exception:
    """Turn an error of redis-py into what a connection of ours raises.

    Returns:
        A `Refusal` (the server said no), an OSError (the connection failed; TimeoutError: in
        time), a `NotRedis`, or the error itself if it is something else.
    """
    if isinstance(error, errors.TimeoutError):
        return TimeoutError(str(error))
    if isinstance(error, errors.InvalidResponse):
        return NotRedis(str(error))
    if isinstance(error, errors.ResponseError) or type(error) in _CODES:
        return _refusal_of(error)
    if isinstance(error, errors.AuthenticationError):
        return _login_refusal(str(error))
    if isinstance(error, errors.ConnectionError):
        cause = error.__cause__ or error.__context__
        return cause if isinstance(cause, OSError) else ConnectionError(str(error))
    return error


def _refusal_of(error: Exception) -> Refusal:
    if type(error) in _CODES:
        return Refusal(_CODES[type(error)], str(error))
    first = str(error).split(" ", 1)[0]
    return refusal(str(error) if first in _LEFT else f"ERR {error}")


def _login_refusal(text: str) -> Refusal:
    if text.startswith("Authentication required"):
        return Refusal("NOAUTH", text)
    return Refusal("ERR" if "without any password configured" in text else "WRONGPASS", text)


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Make the context of a connection.

    Raises:
        BrokerInaccessible: a file is missing or is no certificate or key.
    """
    context = ssl.create_default_context()
    context.check_hostname = tls.verify == "full"
    if tls.verify == "none":
        context.verify_mode = ssl.CERT_NONE
    try:
        if tls.cert:
            context.load_cert_chain(tls.cert, tls.key or None)
    except (OSError, ssl.SSLError) as error:
        raise BrokerInaccessible(
            f"cert={tls.cert} and key={tls.key or tls.cert} cannot be used: {error}"
        ) from error
    try:
        if tls.ca:
            context.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise BrokerInaccessible(f"ca={tls.ca} cannot be used: {error}") from error
    return context


def protocol_mismatch(options: RedisOptions, address: Address, error: Exception) -> str:
    """Find out whether a connection failed because only one of both sides speaks TLS.

    A server does not say so: it cuts who speaks in plain, and waits for more of who does not.
    This blocks, for a second at most.

    Arguments:
        options: how it was tried to connect.
        address: the server.
        error: how that failed.

    Returns:
        What is wrong; "" if it is something else.
    """
    if not address.port or isinstance(error, ConnectionRefusedError):
        return ""
    timeout = min(options.timeout, 1.0)
    if options.tls is None and isinstance(error, ConnectionError) and _speaks_tls(address, timeout):
        return "it speaks TLS: write rediss:// instead of redis://"
    if options.tls is not None and isinstance(error, OSError) and _speaks_plain(address, timeout):
        return "it speaks no TLS: write redis:// instead of rediss://"
    return ""


def _speaks_tls(address: Address, timeout: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is said to it
    try:
        with socket.create_connection(address, timeout) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def _speaks_plain(address: Address, timeout: float) -> bool:
    try:
        with socket.create_connection(address, timeout) as plain:
            plain.settimeout(timeout)
            plain.sendall(b"PING\r\n")
            return plain.recv(100).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


def client_settings(
    options: RedisOptions,
    address: Address | None,
    login: Login,
    *,
    database: int | None = None,
) -> dict[str, Any]:
    """The arguments of a client of redis-py that does nothing by itself.

    Arguments:
        options: where and how.
        address: the server; None: without one.
        login: who.
        database: None: that of the options.
    """
    settings = _session(options, login, database) | _secured(options.tls)
    if options.tls is not None:
        settings["ssl"] = True
    if address is not None:
        settings |= _place(address)
    return settings


def _session(options: RedisOptions, login: Login, database: int | None) -> dict[str, Any]:
    return {
        "db": options.database if database is None else database,
        "username": login.user or None,
        "password": login.password or None,
        "credential_provider": login.provider,
        "socket_timeout": options.timeout,
        "socket_connect_timeout": options.timeout,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,  # replies of scripts are the same in both; this needs no HELLO
    }


def _secured(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    tls_context(tls)  # redis-py does not say which of the files is wrong
    return {
        "ssl_cert_reqs": "none" if tls.verify == "none" else "required",
        "ssl_check_hostname": tls.verify == "full",
        "ssl_ca_certs": tls.ca or None,
        "ssl_certfile": tls.cert or None,
        "ssl_keyfile": tls.key or tls.cert or None,
    }


def _place(address: Address) -> dict[str, Any]:
    if not address.port:
        return {"unix_socket_path": address.host}
    return {"host": address.host, "port": address.port, "socket_keepalive": True}


def client(
    options: RedisOptions, address: Address, login: Login | None = None, **more: Any
) -> Redis:
    """Make a client of redis-py with retries off, for what is not worth a wire.

    Arguments:
        options: how to connect.
        address: to which server.
        login: as whom; that of the options, if left out.
        more: see `client_settings`.
    """
    return Redis(**client_settings(options, address, login or options.login, **more))


def connection(options: RedisOptions, address: Address) -> AbstractConnection:
    """Make a connection of redis-py, connected, authenticated and named.

    Raises:
        RedisError: it cannot be made.
        BrokerInaccessible: a file of its TLS options is wrong.
    """
    session = _session(options, options.login, None)
    made: Any  # redis-py has no types for what follows
    if not address.port:
        kind: Any = UnixDomainSocketConnection
        made = kind(address.host, **session)
    else:
        kind = Connection if options.tls is None else SSLConnection
        made = kind(**_place(address), **session, **_secured(options.tls))
    made.connect()
    made.send_packed_command([pack(("CLIENT", "SETNAME", CLIENT_NAME))], check_health=False)
    with contextlib.suppress(errors.ResponseError):  # an ACL may forbid it
        made.read_response(disable_decoding=True)
    return cast(AbstractConnection, made)


class SyncConnection:
    """A connection for threads.

    Arguments:
        options: how to connect.
        address: to which server.
    """

    def __init__(self, options: RedisOptions, address: Address) -> None:
        try:
            self._connection: Any = connection(options, address)
        except errors.RedisError as error:
            found = common_error(error)
            if mismatch := protocol_mismatch(options, address, found):
                raise NotRedis(mismatch) from error
            raise found from error

    def send(self, data: bytes) -> None:
        """Send packed commands."""
        try:
            self._connection.send_packed_command([data], check_health=False)
        except errors.RedisError as error:
            raise common_error(error) from error

    def receive(self, count: int) -> list[Any]:
        """Read replies.

        Arguments:
            count: how many.

        Returns:
            The replies; a `Refusal` in place of an error.
        """
        return [self._reply() for _ in range(count)]

    def _reply(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except errors.ResponseError as error:
            return common_error(error)
        except errors.RedisError as error:  # LOADING is one: redis-py closes the connection
            raise common_error(error) from error

    def close(self) -> None:
        """Drop it, with what may be under way on it."""
        self._connection.disconnect()
