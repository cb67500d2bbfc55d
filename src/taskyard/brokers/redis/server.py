"""A Redis server of one's own: started, kept and stopped by the program that needs it."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import ipaddress
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from taskyard.brokers.redis.programs import find_server
from taskyard.errors import BrokerError, BrokerInaccessible

__all__ = ["DATADIR", "OwnServer", "running_server"]

log = logging.getLogger("taskyard.redis")

DATADIR = "taskyard-redis"
"""The folder of the data, in the current one, if no other is given."""

LOCK = "taskyard.lock"

STARTING = 60.0
"""Seconds until a new server must answer. One that answers that it loads its data gets longer."""
STOPPING = 30.0

READY = b"eady to accept connections"
CUT_OFF = b"Unexpected end of file reading the append only file"
"""What servers of all versions log."""
HIDDEN = "mending.sock"
"""A name in the working folder, as the whole path of the data may be too long for a socket."""

# Runs in the new process: Linux ends the server with the process, or rather the thread, that
# started it, however that ends. (A `preexec_fn` could deadlock in a program with threads.)
_TIED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class OwnServer:
    """A redis-server, or valkey-server, that runs while it is needed. Use it with `with`.

    It is told to write every change to its append-only file, on the disk, before it confirms it
    (`appendfsync always`), since a task accepted is a task kept, as with a SQLite file; changes
    that arrive together share a write. It is stopped with SIGTERM: by `stop`, at the latest when
    the program exits. On Linux it ends even with a program that is killed; elsewhere it then goes
    on, and the next start says that its data folder is in use.

    Attributes:
        host: where it listens.
        port: there.
        datadir: the folder with its data, configuration and log.

    Arguments:
        host: an address of this machine. Others than loopback need a password.
        port: a free one.
        datadir: is made if it is missing; by default `taskyard-redis` in the current folder.
        password: of the default user; none by default. It is in no command line, log or text.
        appendfsync: `everysec` is faster for single messages, but when the machine fails, what was
            accepted in its last two seconds is lost.
        program: what to run; by default what `find_server` finds.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 6379,
        datadir: str | os.PathLike[str] | None = None,
        password: str | None = None,
        *,
        appendfsync: Literal["always", "everysec"] = "always",
        program: str | os.PathLike[str] | None = None,
    ) -> None:
        if not 0 < port < 65_536:
            raise BrokerError(f"a port is a number from 1 to 65535, not {port}")
        if not password and not _is_loopback(host):
            raise BrokerError(
                f"a Redis at {host} without a password would obey everybody who reaches that "
                f"address: give it one, or leave it at 127.0.0.1"
            )
        self.host = host
        self.port = port
        self.datadir = Path(datadir if datadir is not None else DATADIR).absolute()
        self._password = password or ""
        self._appendfsync = appendfsync
        self._program = None if program is None else Path(program)
        self._keeper: _Keeper | None = None
        self._owner = 0

    def __repr__(self) -> str:
        return f"OwnServer({self.host!r}, {self.port}, {str(self.datadir)!r})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """To reach it, with the password: not to be printed."""
        login = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{login}{_address(self.host, self.port)}/0"

    @property
    def running(self) -> bool:
        """Whether it was started and did not end since."""
        return self._keeper is not None and self._keeper.process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            MissingExtra: there is no program to run; says what to install.
            BrokerInaccessible: the port is taken, the data folder cannot be used or is in use, or
                the server ended at once; with the last lines of its log.
        """
        if self.running:
            return
        program = self._program or find_server()
        self._check_port()
        with self._locked() as lock:
            command = [str(program), str(self._write_config())]
            try:
                self._serve(command, lock)
            except BaseException:
                self.stop()
                raise
        log.info("started %s at %s:%s, data in %s", program, self.host, self.port, self.datadir)

    def stop(self) -> None:
        """Have it shut down, and wait for its end. Does nothing in a forked child."""
        keeper, self._keeper = self._keeper, None
        if keeper is None or self._owner != os.getpid():
            return
        atexit.unregister(self.stop)
        keeper.stop()
        with contextlib.suppress(OSError):  # it may hold a password
            self._config.unlink()

    # Before the start

    def _check_port(self) -> None:
        """See whether somebody listens there, to say who."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                pass
        except OSError:
            return  # nobody; or the server itself will say what is wrong with the address
        found = _who(self.host, self.port)
        taken = f"cannot start a Redis at {_address(self.host, self.port)}: "
        if found is None:
            raise BrokerInaccessible(
                f"{taken}something that is no Redis listens there; choose another port"
            )
        raise BrokerInaccessible(
            f"{taken}{found} runs there already; use that one, or choose another port"
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """A file that is locked until the server ends: it inherits the lock."""
        try:
            self.datadir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.datadir / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise BrokerInaccessible(
                f"the data folder {self.datadir} cannot be used: {error.strerror}"
            ) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                other = running_server(self.datadir)
                raise BrokerInaccessible(
                    f"the data folder {self.datadir} is in use by the Redis at "
                    f"{other or 'another port'}; use that one, or choose another folder"
                ) from None
            note = json.dumps({"host": self.host, "port": self.port}).encode()
            os.ftruncate(lock, 0)
            os.pwrite(lock, note, 0)
            yield lock
        finally:
            os.close(lock)

    @property
    def _config(self) -> Path:
        return self.datadir / "redis.conf"

    @property
    def _log(self) -> Path:
        return self.datadir / "redis.log"

    def _write_config(self) -> Path:
        lines = {
            "bind": self.host,
            "port": str(self.port),
            "dir": str(self.datadir),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "aof-load-truncated": "no",  # see `_mend`
            "save": "",  # the append-only file has it all
            "maxmemory-policy": "noeviction",
        }
        if self._password:
            lines["requirepass"] = self._password
        text = "".join(f"{name} {_quoted(value)}\n" for name, value in lines.items())
        try:
            with contextlib.suppress(FileNotFoundError):  # an old one may be readable by others
                self._config.unlink()
            file = os.open(self._config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w") as config:
                config.write(f"# Written by taskyard whenever it starts this server.\n{text}")
            self._log.touch(mode=0o600)
        except OSError as error:
            raise BrokerInaccessible(
                f"the data folder {self.datadir} cannot be written: {error.strerror}"
            ) from error
        return self._config

    # The start

    def _serve(self, command: list[str], lock: int) -> None:
        keeper = self._launch(command, lock)
        try:
            self._wait(keeper)
        except _CutOff:
            self._mend(command, lock)
            keeper = self._launch(command, lock)
            self._wait(keeper)
        keeper.serves = True

    def _launch(self, command: list[str], lock: int) -> _Keeper:
        keeper = self._keeper = _Keeper(command, self.datadir, self._log, lock)
        self._owner = os.getpid()
        atexit.register(self.stop)
        return keeper

    def _mend(self, command: list[str], lock: int) -> None:
        """Have it cut off what is not whole at the end of the append-only file.

        Redis 6.2 and 7.0 need two starts for the half of a script: at the first they cut off its
        last command only, at the second all that is left. What was written between them would be
        taken for a part of it, so nobody can reach the server meanwhile.
        """
        log.warning(
            "the append-only file in %s ends in the middle of a write, as after a power cut: "
            "what there is of that write is cut off",
            self.datadir,
        )
        hidden = ["--port", "0", "--unixsocket", HIDDEN, "--aof-load-truncated", "yes"]
        for _ in range(2):
            keeper = self._launch([*command, *hidden], lock)
            while READY not in keeper.logged():
                if not self.running:
                    raise _ended(keeper)
                time.sleep(0.01)
            keeper.stop()

    def _wait(self, keeper: _Keeper) -> None:
        """Wait until it has loaded its data. It tells of itself before that, too.

        Raises:
            _CutOff: it ended, since it does not take its data as they are.
            BrokerInaccessible: it ended for another reason, or does not answer.
        """
        end = time.monotonic() + STARTING
        with _client(self.host, self.port, self._password) as client:
            while self.running:
                answer = ""
                try:
                    info = client.info()
                    if info.get("config_file") == str(self._config):  # no other is at that port
                        if not info["loading"]:
                            return
                        end = time.monotonic() + STARTING
                except redis.RedisError as error:
                    answer = str(error)
                if time.monotonic() > end:
                    raise BrokerInaccessible(
                        f"the Redis server at {_address(self.host, self.port)} did not answer for "
                        f"{STARTING:g} seconds: {answer or 'another one answers'}; its log is "
                        f"{self._log}"
                    )
                time.sleep(0.01)
        raise _ended(keeper)


class _CutOff(BrokerInaccessible):
    """The server does not take its data: the last write to its append-only file is not whole."""


class _Keeper:
    """The process of a server, and a thread that started it and lives as long as it does.

    Attributes:
        process: the process.
        log: its log, to which it appends.
        serves: whether nobody waits for it any more who would notice its end.
    """

    def __init__(self, command: list[str], folder: Path, log_file: Path, lock: int) -> None:
        self._command = command
        self._folder = folder
        self.log = log_file
        self._begin = log_file.stat().st_size
        self.serves = False
        self._stopping = False
        self._lock = lock
        self._failed: OSError | None = None
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="taskyard-redis-server", daemon=True
        )
        self._thread.start()
        started.wait()
        if self._failed is not None:
            raise BrokerInaccessible(f"{command[0]} cannot be run: {self._failed}")

    def _run(self, started: threading.Event) -> None:
        try:
            self.process = self._launch()
        except OSError as error:
            self._failed = error
            return
        finally:
            started.set()
        code = self.process.wait()
        if self.serves and not self._stopping:
            log.error("the Redis server ended, with exit code %s; see %s", code, self.log)

    def _launch(self) -> subprocess.Popen[bytes]:
        command = self._command
        if sys.platform == "linux" and sys.executable:
            command = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]
        with self.log.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[self._lock],
                start_new_session=True,  # Ctrl-C is for the program, which still needs the server
            )

    def logged(self) -> bytes:
        """What the server has written into its log."""
        with self.log.open("rb") as file:
            file.seek(self._begin)
            return file.read()

    def stop(self) -> None:
        self._stopping = True
        self.process.terminate()
        self._thread.join(STOPPING)
        if self._thread.is_alive():
            log.warning("the Redis server did not shut down within %g s: killed", STOPPING)
            self.process.kill()
            self._thread.join()


def _ended(keeper: _Keeper) -> BrokerInaccessible:
    logged = keeper.logged()
    lines = logged.decode(errors="replace").splitlines()[-8:]
    kind = _CutOff if CUT_OFF in logged else BrokerInaccessible
    return kind(
        f"the Redis server ended at once; the last lines of {keeper.log}:\n" + "\n".join(lines)
    )


# Other servers


def running_server(datadir: str | os.PathLike[str]) -> str | None:
    """Find the server that an `OwnServer` of any process has running on a data folder.

    Arguments:
        datadir: the folder.

    Returns:
        Its `host:port`; None if there is none.
    """
    try:
        with (Path(datadir) / LOCK).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:  # somebody runs on it
                note = json.loads(lock.read())
                return _address(note["host"], note["port"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return None


def _who(host: str, port: int) -> str | None:
    """What listens there, if it is a Redis."""
    with _client(host, port, "") as client:
        try:
            info: dict[str, Any] = client.info("server")
            return f"a Redis {info.get('redis_version', '')}".rstrip()
        except (redis.AuthenticationError, redis.ResponseError, redis.BusyLoadingError):
            return "a Redis"
        except redis.RedisError:
            return None


def _client(host: str, port: int, password: str) -> redis.Redis:
    return redis.Redis(
        host=host,
        port=port,
        password=password or None,
        socket_timeout=2,
        socket_connect_timeout=2,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


# Texts


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _quoted(value: str) -> str:
    """A text as configuration files take it, whatever is in it."""
    plain = {byte for byte in range(32, 127) if byte not in b'"\\'}
    coded = (chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in value.encode())
    return f'"{"".join(coded)}"'
