"""`taskyard report` and `taskyard compare`, as they are typed."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from taskyard.cli.group import taskyard

T = 1_700_000_000.0


def write(path: Path, seed: int, slower: float = 1.0) -> None:
    dice = random.Random(seed)
    rows: list[object] = [{"run": {"function": "shop.buy", "workers": 9, "plan": "100/s"}}]
    for number in range(1000):
        planned = T + number / 100
        ended = planned + slower * dice.uniform(0.01, 0.03)
        row = {"id": number + 1, "status": "completed", "planned": planned, "started": planned}
        rows.append({**row, "ended": ended})
    error = {"kind": "OSError", "message": "\x1b[31mred\nlines"}
    rows.append({"id": 1001, "status": "failed", "started": T, "ended": T + 0.02, "error": error})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"torn', encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "before.jsonl", 1)
    write(tmp_path / "after.jsonl", 2)
    write(tmp_path / "slow.jsonl", 3, slower=1.5)
    return tmp_path


def typed(*words: str) -> Result:
    return CliRunner().invoke(taskyard, words, prog_name="taskyard")


@pytest.mark.usefixtures("folder")
def test_the_numbers_of_a_run() -> None:
    done = typed("report", "before.jsonl", "--title", "Friday")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("Friday\n9 workers · 100/s · 2023-11-14 22:13:20 UTC · 10 s\n")
    assert "1,001: 1,000 completed, 1 failed (0.10%)" in done.stdout
    assert "\\x1b[31mred lines" in done.stdout  # what an error said commands no terminal


@pytest.mark.usefixtures("folder")
def test_json_and_files(folder: Path) -> None:
    done = typed(
        "report", "before.jsonl", "after.jsonl", "--json", "--interval", "2", "--csv", "o.csv"
    )
    assert (done.exit_code, done.stderr) == (0, "wrote o.csv\n")
    made = json.loads(done.stdout)
    assert (made["total"], made["conditions"]["workers"]) == (2002, 18)
    assert len((folder / "o.csv").read_text(encoding="utf-8").splitlines()) == 7


@pytest.mark.usefixtures("folder")
def test_colours_are_for_terminals() -> None:
    plain = typed("report", "before.jsonl").stdout
    shown = CliRunner().invoke(taskyard, ["report", "before.jsonl"], color=True).stdout
    assert "\x1b" not in plain
    assert shown.startswith("\x1b[1mshop.buy\x1b[0m\n")
    assert "\x1b[33m! With 1,001 calls, little is known" in shown
    assert re.sub(r"\x1b\[\d+m", "", shown) == plain


@pytest.mark.usefixtures("folder")
def test_conditions_that_must_not_be_met() -> None:
    fine = typed("report", "before.jsonl", "--fail-if", "p99 > 1s", "--fail-if", "errors > 1%")
    assert (fine.exit_code, fine.stderr) == (0, "")
    done = typed("report", "before.jsonl", "--fail-if", "p99 > 1ms", "--fail-if", "errors > 0")
    assert done.exit_code == 3
    assert (
        "Failed: p99 is 29.8 ms, more than 1 ms\nFailed: errors is 1, more than 0\n" in done.stderr
    )
    wrong = typed("report", "nowhere.jsonl", "--fail-if", "p99 > 1")
    assert wrong.exit_code == 2
    assert "needs a unit of time" in wrong.stderr


@pytest.mark.usefixtures("folder")
def test_the_log_of_another_tool() -> None:
    text = f"when,took,error\n{T},120,\n{T + 1},80,Refused\n"
    Path("theirs.csv").write_text(text, encoding="utf-8")
    words = ("--column", "started=when", "--column", "duration=took:ms")
    done = typed("report", "theirs.csv", *words)
    assert done.exit_code == 0
    assert "2: 1 completed, 1 failed (50.00%)" in done.stdout
    assert "Of theirs.csv, when is started, took is duration (ms), error is error." in done.stdout
    done = typed("report", "theirs.csv")
    assert done.exit_code == 1
    assert "Name them, as in started=when, duration=took:ms" in done.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("report",), 2, "Missing argument 'LOG...'"),
        (("report", "nowhere.jsonl"), 1, "nowhere.jsonl cannot be read: No such file"),
        (("report", "before.jsonl", "--html", "o.txt"), 2, "'o.txt' does not end in .html"),
        (("report", "before.jsonl", "--csv", "no/o.csv"), 1, "no/o.csv cannot be written"),
        (("report", "before.jsonl", "--column", "took"), 2, "not of the form MEANING=COLUMN"),
        (("report", "before.jsonl", "--column", "took=x"), 1, "a column can mean planned, started"),
        (("report", "before.jsonl", "--window", "0"), 2, "0.0 is not in the range x>0"),
        (("report", "before.jsonl", "--interval", "nan"), 1, "a number of seconds above 0"),
        (("report", "before.jsonl", "--interval", "1e-9"), 1, "at most 1,000,000 are made"),
        (("compare", "before.jsonl", "/dev/null"), 1, "in /dev/null no call has ended"),
        (("compare", "before.jsonl"), 2, "Missing argument 'AFTER'"),
        (("compare", "before.jsonl", "nowhere"), 1, "nowhere cannot be read"),
        (("compare", "before.jsonl", "after.jsonl", "--tolerance", "x"), 2, "'x' is no share"),
        (("compare", "before.jsonl", "after.jsonl", "--confidence", "5%"), 1, "between 0.5 and 1"),
    ],
)
def test_wrong_use(words: tuple[str, ...], code: int, text: str) -> None:
    done = typed(*words)
    assert done.exit_code == code
    assert text in done.stderr


@pytest.mark.usefixtures("folder")
def test_compare() -> None:
    same = typed("compare", "before.jsonl", "after.jsonl")
    assert (same.exit_code, same.stderr) == (0, "")
    worse = typed("compare", "before.jsonl", "slow.jsonl")
    assert worse.exit_code == 3
    assert worse.stdout.count("worse") == 4
    better = typed("compare", "slow.jsonl", "before.jsonl", "--json")
    assert better.exit_code == 0
    assert json.loads(better.stdout)["better"] is True
    allowed = typed("compare", "before.jsonl", "slow.jsonl", "--tolerance", "100%")
    assert allowed.exit_code == 0


def test_standard_input_as_a_process(folder: Path) -> None:
    with (folder / "before.jsonl").open("rb") as log:
        done = subprocess.run(
            [sys.executable, "-m", "taskyard", "report", "-", "--fail-if", "lost > 0"],
            stdin=log,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=True,
        )
    assert "1,000 completed" in done.stdout
