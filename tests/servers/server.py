"""Servers for tests: real ones, on free ports, in temporary folders."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import quote

import redis
import trustme
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError
from redis.retry import Retry
from tests.servers.binaries import Binary, find

__all__ = [
    "Certificates",
    "Config",
    "RedisServer",
    "ServerError",
    "free_port",
    "give_port_back",
    "wait_until",
]

HOST = "127.0.0.1"
PORTS = range(11_000, 21_000)
"""Below those that systems take for outgoing connections, and so are the cluster's, 10,000 up."""
ATTEMPTS = 20
PATIENCE = 30.0

Config: TypeAlias = Mapping[str, str | int | Sequence[str]]
"""Lines of a configuration file; a sequence stands for several lines of one name."""


class ServerError(Exception):
    """A server did not do what a test needs; with the end of its log."""


def wait_until(holds: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """Look again and again until something holds, which tells nobody when it begins to.

    Arguments:
        holds: says so. A server that cannot be reached is one where it does not.
        what: is waited for, to be named in the error.
        timeout: seconds.

    Raises:
        ServerError: it did not within that time.
    """
    end = time.monotonic() + timeout
    last: Exception | None = None
    while time.monotonic() < end:
        try:
            if holds():
                return
            last = None
        except (RedisError, OSError) as error:
            last = error
        time.sleep(0.01)
    raise ServerError(f"not within {timeout:g} s: {what}" + (f" ({last!r})" if last else ""))


def free_port(taken: Sequence[int] = (), *, bus: bool = False) -> int:
    """A port that nobody listens on now, and that no other test takes until `give_port_back`.

    Another program may be faster, so be ready to try again.

    Arguments:
        taken: these not.
        bus: whether the one 10,000 above must be free too.
    """
    for _ in range(1000):
        port = random.choice(PORTS)
        if port in taken or not _reserve(port):
            continue
        if _is_free(port) and not (bus and not _is_free(port + 10_000)):
            return port
        give_port_back(port)
    raise ServerError("no port is free")


def give_port_back(port: int) -> None:
    """Let other tests take a port that `free_port` chose."""
    if (lock := _reserved.pop(port, None)) is not None:
        os.close(lock)


# A server that is down for a while must find its port free, though many tests look for one: each
# keeps a lock, of all processes, on the file of its port.
_reserved: dict[int, int] = {}


def _reserve(port: int) -> bool:
    if port in _reserved:
        return False
    folder = Path(tempfile.gettempdir(), f"taskyard-ports-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    _reserved[port] = lock
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class Certificates:
    """An authority made on the spot, and certificates of it for a server and a client.

    Attributes:
        ca: the file to trust.
        cert: of the server, for localhost and 127.0.0.1.
        key: its key.
        client_cert: of a client.
        client_key: its key.

    Arguments:
        folder: where they are written.
        hosts: for whom the server's is made out.
    """

    def __init__(self, folder: Path, hosts: Sequence[str] = ("localhost", HOST)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca.pem"
        self.cert, self.key = folder / "server.pem", folder / "server.key"
        self.client_cert, self.client_key = folder / "client.pem", folder / "client.key"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        for made, cert, key in (
            (authority.issue_cert(*hosts), self.cert, self.key),
            (authority.issue_cert("client@example.org"), self.client_cert, self.client_key),
        ):
            made.private_key_pem.write_to_path(key)
            for index, blob in enumerate(made.cert_chain_pems):
                blob.write_to_path(cert, append=index > 0)


class RedisServer:
    """A redis-server or valkey-server of one's own; use it with `with`, or `close()` it.

    It ends with the thread that started it (on Linux), however that ends.

    Attributes:
        binary: what runs.
        folder: its working folder: data, configuration, log, socket.
        host: where it listens.
        port: there; with TLS it speaks nothing else on it. Kept through `restart`.
        socket: its Unix socket, if it has one.
        password: of the default user, if it has one.
        tls: its certificates, if it speaks TLS.

    Arguments:
        binary: what to run; by default the usual one.
        config: more lines for the configuration file.
        appendonly: whether it writes an append-only file.
        appendfsync: when that reaches the disk: "always", "everysec" or "no".
        password: for the default user.
        users: ACL rules, as in `"worker on >secret ~* &* +@all"`.
        tls: certificates; it then speaks TLS only.
        client_certs: whether clients must show a certificate.
        unix: whether it has a Unix socket too.
        bus: whether it needs the port 10,000 above its own as well.
        mode: "--sentinel" makes it one.
        port: this one, instead of any that is free.
    """

    def __init__(
        self,
        *,
        binary: Binary | None = None,
        config: Config | None = None,
        appendonly: bool = False,
        appendfsync: str = "everysec",
        password: str | None = None,
        users: Sequence[str] = (),
        tls: Certificates | None = None,
        client_certs: bool = False,
        unix: bool = False,
        bus: bool = False,
        mode: str = "",
        port: int = 0,
    ) -> None:
        self.binary = binary or find()
        self.host = HOST
        self.password = password
        self.tls = tls
        # A short path, since a socket's has little room.
        self.folder = Path(tempfile.mkdtemp(prefix="ty-redis-"))
        self.socket = self.folder / "s" if unix else None
        self.port = port
        self._wants_port = port
        self._mode = mode
        self._bus = bus
        self._client_certs = client_certs
        self._config = dict(config or {})
        if not mode:
            self._config = {
                "save": '""',
                "repl-diskless-sync-delay": 0,  # a replica would wait 5 s for others
                "appendonly": "yes" if appendonly else "no",
                "appendfsync": appendfsync,
                **({"requirepass": password} if password else {}),
                **({"user": list(users)} if users else {}),
                **self._config,
            }
        # Those that tests still use: each that is dropped closes its connections.
        self._clients: weakref.WeakSet[redis.Redis] = weakref.WeakSet()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Life and death

    def start(self) -> None:
        """Start it and wait until it serves; on another port if somebody takes the chosen one.

        Raises:
            ServerError: it ended, or did not answer; with the end of its log.
        """
        for _ in range(ATTEMPTS):
            if not self.port:
                self.port = free_port(bus=self._bus)
            self._launch()
            if self._wait():
                return
            if self._wants_port or "ddress already in use" not in self.log():
                break
            give_port_back(self.port)
            self.port = 0
        raise ServerError(f"{self.binary.path} ended at once:\n{self._tail()}")

    def restart(self) -> None:
        """Start it again after its end, on the same port, with the data that are on the disk."""
        self._launch()
        if not self._wait():
            raise ServerError(f"it did not start again:\n{self._tail()}")

    def kill(self) -> None:
        """Kill it with SIGKILL, and wait for its end."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """Have it shut down as it should, and wait for its end."""
        self._end(signal.SIGTERM)

    def stop_process(self) -> None:
        """Freeze it (SIGSTOP): connections stand, nothing answers. Returns when it is frozen."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def cont(self) -> None:
        """Let it go on after `stop_process`."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill it and remove its folder."""
        for client in list(self._clients):
            client.close()
        self._clients.clear()
        if self.running:
            self.kill()
        if not self._wants_port:
            give_port_back(self.port)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "it was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What it wrote since its last start."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    # How to reach it

    @property
    def url(self) -> str:
        """With the password; over TLS with the file to trust, as redis-py does not know it."""
        user = f":{quote(self.password, safe='')}@" if self.password else ""
        if self.tls:
            return f"rediss://{user}{self.host}:{self.port}/0?ca={quote(str(self.tls.ca))}"
        return f"redis://{user}{self.host}:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """The same, over its Unix socket."""
        assert self.socket is not None, "it has no socket: make it with unix=True"
        user = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"unix://{user}{self.socket}?db=0"

    def client(self, **options: Any) -> redis.Redis:
        """A client that tries nothing twice. It is closed with the server.

        Arguments:
            options: more, or others, than it takes to reach this server as its default user.
        """
        given: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "password": self.password,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": PATIENCE,
        }
        if self.tls:
            given |= {"ssl": True, "ssl_ca_certs": str(self.tls.ca)}
            given |= {"ssl_certfile": str(self.tls.client_cert)}
            given |= {"ssl_keyfile": str(self.tls.client_key)}
        made = redis.Redis(**(given | options))
        self._clients.add(made)
        return made

    # Inside

    def _launch(self) -> None:
        assert not self.running, "it runs already"
        path = self.folder / "conf"
        # It writes to its file in these modes, so that one must be kept over restarts.
        if not (path.exists() and (self._mode or "cluster-enabled" in self._config)):
            path.write_text(self._lines())
            path.chmod(0o600)
        command = [str(self.binary.path), str(path), *([self._mode] if self._mode else [])]
        if shutil.which("setpriv"):
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C ends the tests, and they end the server
            )

    def _lines(self) -> str:
        config: dict[str, str | int | Sequence[str]] = {"bind": HOST, "dir": str(self.folder)}
        config |= {"port": 0, "tls-port": self.port} if self.tls else {"port": self.port}
        if self.tls:
            config |= {"tls-cert-file": str(self.tls.cert), "tls-key-file": str(self.tls.key)}
            config |= {"tls-ca-cert-file": str(self.tls.ca)}
            config |= {"tls-auth-clients": "yes" if self._client_certs else "optional"}
        if self.socket:
            config["unixsocket"] = str(self.socket)
        lines = []
        for name, value in (config | self._config).items():
            values = [value] if isinstance(value, str | int) else value
            lines += [f"{name} {line}\n" for line in values]
        return "".join(lines)

    def _wait(self) -> bool:
        """Wait until it answers and has loaded its data; whether it has, and did not end."""
        with self.client(socket_timeout=0.5) as probe:
            self._clients.remove(probe)

            def answers() -> bool:
                if not self.running:
                    return True
                try:
                    info = probe.info()
                    # It tells this while it loads, too. A sentinel has nothing to load.
                    return bool(info["process_id"] == self.pid and not info.get("loading"))
                except (redis.AuthenticationError, NoPermissionError):
                    return True  # only users with names may, say

            wait_until(answers, f"an answer of {self.binary.path}:\n{self._tail()}")
        return self.running

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None, "it was not started"
        self._process.send_signal(number)
        if number != signal.SIGKILL:
            self._process.send_signal(signal.SIGCONT)
        self._process.wait(PATIENCE)

    def _tail(self) -> str:
        return "\n".join(self.log().splitlines()[-10:])
