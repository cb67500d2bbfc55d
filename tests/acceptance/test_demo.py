"""`make demo`, on a few files that are hard on it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.servers.binaries import Binary

DEMO = Path(__file__).parents[2] / "examples" / "stdlib" / "demo.py"

ODD_FILES = {
    "bytes.py": b"".join(bytes([number]) * 2 for number in range(256)),
    "crlf.py": b"a = 1\r\n\r\nb = 2\r\n",
    "empty.py": b"",
    "form_feed.py": b"a = 1\n\x0c\nb = '\x0b\x1c\x1d\x1e\xc2\x85\xe2\x80\xa8'\n",
    "latin_1.py": "# -*- coding: latin-1 -*-\nname = 'Günther'\n".encode("latin-1"),
    "mixed.py": b"a\r\r\nb\n\rc\n\n\r",
    "no_newline.py": b"a = 1\nb = 2",
    "one_newline.py": b"\n",
    "package/__init__.py": b"",
    "package/empty.py": b"# not the other empty.py\n",
    "package/long_line.py": b"x" * 300_000 + b"\n",
    # Many lines that are alike: a mix-up of order is seen, a mix-up of equal lines cannot be.
    **{f"package/many_{n}.py": b"".join(b"%d\n" % i for i in range(3_000)) for n in range(6)},
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for name, data in {**ODD_FILES, "site-packages/foreign.py": b"import this\n"}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "package" / "notes.txt").write_text("no Python")
    return folder


@pytest.fixture
def room(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which to run it; whatever a run leaves behind is an error."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    yield {**os.environ, "TMPDIR": str(temporary), "COLUMNS": "100"}
    left = [process for process in psutil.process_iter() if _belongs_to(process, temporary)]
    for process in left:
        process.kill()
    assert not left
    assert not list(temporary.iterdir())


def _belongs_to(process: psutil.Process, temporary: Path) -> bool:
    try:
        return process.environ().get("TMPDIR") == str(temporary)
    except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def run(room: dict[str, str], *arguments: object) -> tuple[int, str]:
    command = [sys.executable, str(DEMO), *map(str, arguments)]
    done = subprocess.run(
        command, check=False, env=room, capture_output=True, text=True, timeout=50
    )
    assert not done.stderr
    return done.returncode, done.stdout


def number(output: str, row: str) -> int:
    found = re.search(rf"^ *{row} +([\d,]+) *$", output, re.MULTILINE)
    assert found, output
    return int(found[1].replace(",", ""))


def test_every_byte_arrives_though_a_worker_is_killed(room: dict[str, str], source: Path) -> None:
    code, output = run(room, "--source", source)
    assert code == 0, output
    assert output.endswith(f"identical: {len(ODD_FILES)} of {len(ODD_FILES)} files\n")
    assert "kill -9 of worker" in output
    assert number(output, "redelivered lines") > 0
    assert number(output, "bytes") == sum(map(len, ODD_FILES.values()))
    assert number(output, "dead letters") == 0


def test_the_same_on_a_redis_of_its_own(
    room: dict[str, str], source: Path, redis_binary: Binary
) -> None:
    path = f"{redis_binary.path.parent}{os.pathsep}{room['PATH']}"
    code, output = run({**room, "PATH": path}, "--source", source, "--broker", "redis")
    assert code == 0, output
    assert output.endswith(f"identical: {len(ODD_FILES)} of {len(ODD_FILES)} files\n")
    assert number(output, "redelivered lines") > 0
    assert number(output, "dead letters") == 0


def test_without_a_kill_nothing_is_delivered_twice(room: dict[str, str]) -> None:
    code, output = run(room, "--files", 12, "--no-kill", "--processes", 1)
    assert code == 0, output
    assert output.endswith("identical: 12 of 12 files\n")
    assert "kill -9" not in output
    assert number(output, "redelivered lines") == 0


def test_a_single_wrong_byte_is_an_error(room: dict[str, str], source: Path) -> None:
    code, output = run(room, "--source", source, "--tamper", "--no-kill")
    assert code == 1
    assert f"FAILED  identical: {len(ODD_FILES) - 1} of {len(ODD_FILES)} files\n" in output
    sent = r"^\S+\.py, line \d+: b(['\"]).+\1 was sent, b(['\"]).+\2 arrived\n$"
    assert re.search(sent, output, re.MULTILINE)


def test_workers_that_cannot_work_are_an_error(room: dict[str, str], source: Path) -> None:
    code, output = run(room, "--source", source, "--broker", "memory://")
    assert code == 1
    assert "memory:// lives in one process" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_it_leaves_nothing_behind(room: dict[str, str], number: signal.Signals) -> None:
    command = [sys.executable, "-u", str(DEMO)]
    with subprocess.Popen(command, env=room, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if re.search(r"stored +[1-9]", line):
                break
        demo.send_signal(number)
        rest = demo.stdout.read()
    assert demo.returncode == 128 + number
    assert "identical" not in rest
