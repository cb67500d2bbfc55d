"""The parts of the command line: names to objects, handlers of plain functions, logs, output."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskyard import BatchFailed, DiscardMessage, Yard, discard
from taskyard.cli.lines import read_lines
from taskyard.cli.load import load_function, load_yard
from taskyard.cli.logs import JsonFormatter, TextFormatter, configure
from taskyard.cli.output import age, as_json, printable, shorten, table
from taskyard.errors import WorkerError
from taskyard.plain import handler_of, serve_plain

# Names to objects


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_builtins_modules_and_files(folder: Path) -> None:
    (folder / "cli_module.py").write_text("class A:\n    @staticmethod\n    def b(): return 1\n")
    (folder / "inner").mkdir()
    (folder / "inner" / "cli_file.py").write_text("import cli_beside\ncall = cli_beside.call\n")
    (folder / "inner" / "cli_beside.py").write_text("def call(): return 2\n")
    assert load_function("print") is print
    assert load_function("cli_module:A.b")() == 1
    assert load_function("cli_module.py:A.b")() == 1
    assert load_function("inner/cli_file.py:call")() == 2
    assert load_function(f"{folder}/inner/cli_file.py:call")() == 2


def test_a_file_is_run_once_and_may_be_called_like_a_module(folder: Path) -> None:
    (folder / "json.py").write_text("def one(): pass\ndef two(): pass\n")
    one, two = load_function("json.py:one"), load_function("json.py:two")
    assert one.__globals__ is two.__globals__
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("prnt", "no builtin function is called 'prnt'"),
        ("cli_nowhere:f", "there is no module 'cli_nowhere'"),
        ("cli_nowhere.inner:f", "there is no module 'cli_nowhere'"),
        ("nowhere.py:f", "there is no file"),
        ("./:f", "there is no file"),
        ("os:gone", "os has no 'gone'"),
        ("os.path:joi", "did you mean join?"),
        ("os:path.joi", "os:path has no 'joi'; did you mean join?"),
        ("math:pi", "math:pi is of type float, which cannot be called"),
        ("os:", "os has no ''"),
    ],
)
def test_what_cannot_be_loaded(folder: Path, name: str, said: str) -> None:
    with pytest.raises(WorkerError, match=re.escape(said)):
        load_function(name)


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("import cli_missing", "ModuleNotFoundError: No module named 'cli_missing'"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
@pytest.mark.parametrize("name", ["cli_broken:f", "cli_broken.py:f"])
def test_a_module_that_fails_shows_only_the_users_lines(
    folder: Path, name: str, code: str, last: str
) -> None:
    (folder / "cli_broken.py").write_text(f"\n{code}\n")
    with pytest.raises(WorkerError) as caught:
        load_function(name)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("cannot be imported:")
    assert lines[-1] == last
    assert len([line for line in lines if line.startswith("  File ")]) == 1


def test_yards(folder: Path) -> None:
    (folder / "cli_yards.py").write_text(
        "from taskyard import Yard\nfirst = Yard('memory://')\nsecond = Yard('memory://')\nx = 1\n"
    )
    (folder / "cli_none.py").write_text("x = 1\n")
    assert isinstance(load_yard("cli_yards:first"), Yard)
    with pytest.raises(WorkerError, match="has no 'yard'; cli_yards has these Yards: first, sec"):
        load_yard("cli_yards:yard")
    with pytest.raises(WorkerError, match="cli_yards:x is of type int, not a Yard; cli_yards has"):
        load_yard("cli_yards:x")
    with pytest.raises(WorkerError, match="cli_yards:Yard is the class Yard, not a Yard"):
        load_yard("cli_yards:Yard")
    with pytest.raises(WorkerError, match=r"cli_none\.py has no Yard; make one there"):
        load_yard("cli_none.py:yard")


# Handlers of plain functions


def test_a_batch_fails_together_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(items: list[int]) -> None:
        raise ValueError("no")

    with pytest.raises(BatchFailed) as caught:
        handler_of(broken, queue="q", called="m:broken")([1, 2, 3])
    assert set(caught.value.failed) == {0, 1, 2}
    assert {type(error) for error in caught.value.failed.values()} == {ValueError}
    (record,) = caplog.records
    assert (record.__dict__["queue"], record.__dict__["function"]) == ("q", "m:broken")
    text = TextFormatter().format(record)
    assert "in broken" in text
    assert "taskyard/plain" not in text


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt()])
def test_they_fail_together_whatever_is_raised(error: BaseException) -> None:
    def broken(items: list[int]) -> None:
        raise error

    async def later(items: list[int]) -> None:
        raise error

    with pytest.raises(BatchFailed, match="2 messages"):
        handler_of(broken, queue="q", called="m:broken")([1, 2])
    with pytest.raises(BatchFailed, match="2 messages"):
        asyncio.run(handler_of(later, queue="q", called="m:later")([1, 2]))


def test_a_coroutine_that_nobody_awaits_is_no_success(caplog: pytest.LogCaptureFixture) -> None:
    async def later(items: list[int], more: int) -> None: ...

    with pytest.raises(BatchFailed):
        handler_of(lambda items: later(items, 1), queue="q", called="hidden")([1])
    assert "returned a coroutine" in caplog.text


def test_what_a_handler_says_of_itself_holds() -> None:
    def names(items: list[int]) -> None:
        raise BatchFailed({1: "this one"})

    def discards(items: list[int]) -> None:
        discard()

    with pytest.raises(BatchFailed) as caught:
        handler_of(names, queue="q", called="names")([1, 2])
    assert set(caught.value.failed) == {1}
    with pytest.raises(DiscardMessage):
        handler_of(discards, queue="q", called="discards")([1, 2])


class Callable:
    async def __call__(self, items: list[Any]) -> str:
        return f"got {items}"


def test_anything_that_takes_a_list_serves() -> None:
    yard = Yard("memory://")

    def typed(items: list[int]) -> int:
        return sum(items)

    async def later(items: tuple[str, ...]) -> str:
        return "".join(items)

    @yard.task(batch=2)
    def declared(items: list[float]) -> None: ...

    functions: list[Any] = [print, sum, typed, later, declared, Callable(), [].extend]
    for number, function in enumerate(functions):
        handler = handler_of(function, queue="q", called="f")
        task = yard.task(name=f"t{number}", batch=3, result_ttl=None)(handler)
        assert task.is_async == (function is later or isinstance(function, Callable))


def test_a_function_may_be_called_with_whatever_was_added() -> None:
    got: list[Any] = []

    def mistaken(*items: dict[str, int]) -> int:
        got.extend(items)
        return 0

    yard = Yard("memory://")
    task = serve_plain(yard, "q", mistaken, called="m", size=3, within=60, typed=False)
    task.enqueue_many(["a", 1, None])
    yard.run_worker(burst=True)
    assert got == [["a", 1, None]]


# Logs


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "taskyard.worker", "levelname": "INFO", "levelno": 20, "msg": message, **extra}
    )
    made.created = 1_700_000_000.25
    return made


def test_a_line_of_text_has_the_fields_behind_the_message() -> None:
    line = TextFormatter().format(record("it is", message_id="a1", queue="my queue", attempt=2))
    time, rest = line[:19], line[19:]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", time)
    assert rest == ' INFO taskyard.worker it is message_id=a1 queue="my queue" attempt=2'


def test_no_message_looks_like_another_record() -> None:
    line = TextFormatter().format(record("a\n2026-01-01 00:00:00 INFO x\r\x1b[31m", task="t\nu"))
    assert line.splitlines()[1] == ('    2026-01-01 00:00:00 INFO x\\r\\x1b[31m task="t\\nu"')


def test_a_line_of_json() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        made = record("it\nis", task="t", level="mine", odd={1, 2}, exc_info=sys.exc_info())
    entry = json.loads(JsonFormatter().format(made))
    assert entry.pop("exception").endswith("ValueError: no")
    assert entry.pop("process") == made.process
    assert entry == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "info",
        "logger": "taskyard.worker",
        "message": "it\nis",
        "task": "t",
        "odd": "{1, 2}",
    }


def test_the_log_goes_to_a_file(tmp_path: Path) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # or they would be closed
    try:
        configure("warning", str(tmp_path / "log"), "json")
        logging.getLogger("taskyard.x").info("no")
        logging.getLogger("taskyard.x").warning("yes", extra={"task": "t"})
        root.handlers[0].close()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["task"] == "t"


# Output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0s"),
        (3.21, "3.2s"),
        (60, "1m 0s"),
        (320, "5m 20s"),
        (7261, "2h 1m"),
        (187_200, "2d 4h"),
        (86_400, "1d 0h"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_nothing_commands_the_terminal() -> None:
    assert printable("a\x1b[31m\nb\u2028\x9b") == "a\\x1b[31m\\nb\\u2028\\x9b"
    assert printable("a\nb\tc\r", lines=True) == "a\nb\tc\\r"


def test_short_texts() -> None:
    assert shorten("a \n b", 10) == "a b"
    assert shorten("a" * 20, 10) == "aaaaaaa..."


def test_anything_becomes_json() -> None:
    assert as_json({"a": b"\x00", "b": {1}, "c": print}) == (
        '{"a":"AA==","b":[1],"c":"<built-in function print>"}'
    )
    assert json.loads(as_json({(1, (2,)): 3}))


def test_cells_of_a_table() -> None:
    made = table(["name", "count"], [["a\x1b", 1234], [None, 5]], right="count")
    name, count = made.columns
    assert [str(cell) for cell in name.cells] == ["a\\x1b", "-"]
    assert [str(cell) for cell in count.cells] == ["1,234", "5"]
    assert (name.justify, count.justify) == ("left", "right")


# Lines


def test_lines_are_read_in_a_process_with_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    reading, writing = os.pipe()
    high = os.dup2(reading, 1100)
    try:
        os.write(writing, b"one\ntwo")
        with os.fdopen(high, "rb", closefd=False) as stream:
            lines = read_lines(stream)
            assert next(lines) == b"one"
            assert next(lines) is None  # a pause
            os.close(writing)
            assert list(lines) == [b"two"]
    finally:
        os.close(reading)
        os.close(high)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
