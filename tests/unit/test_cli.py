"""The commands in this process: what they take, print and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from taskyard import Batch, Keys, Yard
from taskyard.brokers.base import Counts, Dead, Group, GroupWant, Settlement, Want
from taskyard.cli.group import COMMANDS, taskyard
from taskyard.cli.lines import LineTooLong, read_lines
from taskyard.cli.queues import rates
from taskyard.cli.worker import parse_queues
from taskyard.message import Failure

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TASKYARD_BROKER", raising=False)

    def invoke(*args: str, code: int = 0, stdin: str | bytes = "") -> Result:
        found = CliRunner().invoke(taskyard, args, input=stdin, prog_name="taskyard")
        assert found.exit_code == code, found.output
        return found

    return invoke


def counts(run: Run, *args: str) -> dict[str, dict[str, object]]:
    found = json.loads(run("queues", "--json", *args).stdout)
    return {entry["queue"]: entry for entry in found["queues"]}


def bury(url: str = "sqlite:///taskyard.db") -> None:
    """Let whatever waits for `q1` fail."""
    with Yard(url) as yard:
        want = Want([GroupWant(Group("q1", "q1"), 100)], "test", 60_000_000)
        step = yard.driver.run(yard.broker.step([], want))
        failure = Failure(
            "failed", "ValueError", "too \x1b[31mred", "Traceback\n  line\nValueError"
        )
        settlements = [
            Settlement(
                claim.token,
                {
                    message.sequence: Dead(failure, "an-id", "q1")
                    for lane in claim.lanes
                    for _, message in lane.messages
                },
            )
            for claim in step.claims
        ]
        yard.driver.run(yard.broker.step(settlements, None))


# Help


@pytest.mark.parametrize("command", [*COMMANDS, "dead list", "dead retry", "dead discard"])
def test_every_command_shows_an_example(run: Run, command: str) -> None:
    assert f"taskyard {command.split(maxsplit=1)[0]}" in run(*command.split(), "--help").stdout
    assert "Examples:" in run(*command.split(), "--help").stdout


def test_the_help_lists_all_commands(run: Run) -> None:
    shown = run("--help").stdout
    assert all(f"  {command} " in shown for command in COMMANDS)
    assert "Exit codes" in shown


# add, queues


def test_messages_are_added_to_the_file_in_the_current_directory(run: Run, tmp_path: Path) -> None:
    assert run("add", "-t", "q1", "1", "-t", "q3", '{"a": 2}', "-n", "5").stdout == (
        "added 5 messages to q1\nadded 5 messages to q3\n"
    )
    assert (tmp_path / "taskyard.db").exists()
    assert {name: entry["waiting"] for name, entry in counts(run).items()} == {"q1": 5, "q3": 5}


def test_the_environment_names_the_broker(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKYARD_BROKER", "sqlite:///elsewhere.db")
    run("add", "-t", "q1", "1")
    assert list(counts(run, "--broker", "sqlite:///elsewhere.db")) == ["q1"]
    assert not Path("taskyard.db").exists()


def test_a_negative_number_is_a_value(run: Run) -> None:
    run("add", "-t", "q1", "-1")
    assert counts(run)["q1"]["waiting"] == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("text", "a text needs its quotes"),
        ("[1,", "no JSON"),
        ("NaN", "no JSON"),
        ("[" * 60_000 + "]" * 60_000, "nested too deeply"),
        ("123456789012345678901234567890", "beyond 64 bits"),
        ('{"a": [-9223372036854775809]}', "beyond 64 bits"),
    ],
)
def test_what_is_no_value_is_refused_and_nothing_is_added(run: Run, value: str, said: str) -> None:
    found = run("add", "-t", "q1", "1", "-t", "q2", value, code=2)
    assert said in found.stderr
    assert "-t q2" in found.stderr
    assert not Path("taskyard.db").exists()


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["-t", "q1", "1", "--stdin", "q2"],
        ["-t", "q1", "1", "--skip-invalid"],
        ["--stdin", "q1", "-n", "2"],
        ["-t", "q1", "1", "-n", "0"],
        ["-t", "q1"],
    ],
)
def test_add_refuses_what_makes_no_sense(run: Run, args: list[str]) -> None:
    run("add", *args, code=2)


def test_lines_of_stdin_are_messages(run: Run) -> None:
    assert run("add", "--stdin", "q1", stdin="1\n\n  \n[2]\n3").stdout == "added 3 messages to q1\n"
    assert counts(run)["q1"]["waiting"] == 3


@pytest.mark.parametrize("bad", ["oops", "99999999999999999999", "\\", "{'a': 1}"])
def test_at_a_bad_line_all_before_it_are_stored(run: Run, bad: str) -> None:
    found = run("add", "--stdin", "q1", stdin="1\n" * 700 + f"{bad}\n" + "1\n" * 700, code=2)
    assert "line 701 is " in found.stderr
    assert "700 messages were stored" in found.stderr
    assert counts(run)["q1"]["waiting"] == 700


def test_bad_lines_can_be_skipped(run: Run) -> None:
    lines = b"1\noops\n2\n99999999999999999999\n\xff\n3\n"
    found = run("add", "--stdin", "q1", "--skip-invalid", stdin=lines)
    assert found.stdout == "added 3 messages to q1, skipped 3 invalid lines\n"


def test_the_queues_as_a_table(run: Run) -> None:
    run("add", "-t", "q1", "1", "-n", "1234")
    heading, row = run("queues").stdout.splitlines()
    columns = "queue task waiting delayed running dead shards parked oldest done"
    assert heading.split() == columns.split()
    assert row.split()[:4] == ["q1", "q1", "1,234", "0"]


@pytest.mark.parametrize("command", [["queues"], ["dead", "list"], ["dead", "retry", "--all"]])
def test_looking_makes_no_file(run: Run, tmp_path: Path, command: list[str]) -> None:
    assert "no such file" in run(*command, code=1).stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["queues"], ["dead", "list"], ["add", "-t", "q1", "1"]])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://", "give a broker that processes share"),
        ("nothing", "is no broker URL"),
        ("rabbit://host", "no broker is called rabbit://"),
        ("postgresql://me:secret@host", "not in this version"),
        ("sqlite://me:secret@host/file", "three slashes"),
        ("sqlite:///file.db?colour=red", "unknown option colour"),
    ],
)
def test_a_wrong_broker_is_refused_in_one_line(
    run: Run, command: list[str], url: str, said: str
) -> None:
    found = run(*command, "--broker", url, code=1)
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert "secret" not in found.output


def test_somebody_elses_file_is_refused(run: Run) -> None:
    Path("taskyard.db").write_text("this is a letter to my aunt\n" * 1000)
    assert len(run("queues", code=1).stderr.splitlines()) == 1


def test_rates_come_from_differences() -> None:
    one, two = Group("q", "one"), Group("q", "two")
    before = [Counts(one, totals={"done": 10})]
    after = [Counts(one, totals={"done": 30}), Counts(two, totals={"done": 4})]
    assert rates(before, after, 2.0) == {one: 10.0, two: 2.0}


# dead


def test_no_dead_letters(run: Run) -> None:
    run("add", "-t", "q1", "1")
    assert run("dead", "list").stderr == "no dead letters\n"
    assert run("dead", "list", "--json").stdout == ""
    assert run("dead", "retry", "--all").stdout == "put back 0 dead letters\n"
    assert "no such dead letter: 5" in run("dead", "list", "5", code=1).stderr
    assert "no such dead letter: 5" in run("dead", "retry", "5", code=1).stderr
    assert "no such dead letter: 5" in run("dead", "discard", "5", code=1).stderr


def test_a_dead_letter_whose_key_is_held_is_kept(run: Run) -> None:
    with Yard("sqlite:///taskyard.db") as yard:
        task = yard.remote("q1", queue="q1")
        task.enqueue(1, unique_key="k")
        task.enqueue(2)
        bury()
        task.enqueue(3, unique_key="k")
    found = run("dead", "retry", "1", "2")
    assert found.stdout == "put back 1 of 2 dead letter\n"
    assert found.stderr == "Error: another message holds the unique key of: 1\n"
    assert "the unique key of: 1" in run("dead", "retry", "1", code=1).stderr


def test_dead_letters_are_shown(run: Run) -> None:
    run("add", "-t", "q1", '{"a": "\\u001b[31m"}')
    bury()
    table = run("dead", "list").stdout
    assert '{"a":"\\u001b[31m"}' in table
    assert "ValueError: too \\x1b[31mred" in table
    full = run("dead", "list", "1", "--full").stdout
    assert "      line\n" in full
    assert "\x1b" not in table + full
    letter = json.loads(run("dead", "list", "--json").stdout)
    assert letter["payload"] == [{"a": "\x1b[31m"}]
    assert letter["error"]["traceback"].startswith("Traceback")
    assert (letter["number"], letter["queue"], letter["reason"]) == (1, "q1", "failed")


def test_payloads_that_cannot_be_shown_say_why(run: Run) -> None:
    keys = Keys({"of-2026": bytes(32)})
    kinds: list[Any] = [{"encryption": keys}, {"compression": "zlib", "compress_above": 0}]
    for options in kinds:
        with Yard("sqlite:///taskyard.db", **options) as yard:
            yard.remote("q1", queue="q1").enqueue("x" * 100)
    bury()
    full = run("dead", "list", "--full").stdout
    assert "payload:    (encrypted, key 'of-2026')" in full
    assert f'payload:    "{"x" * 100}"' in full
    assert "(encrypted, key 'of-2026')" in run("dead", "list").stdout
    first, second = map(json.loads, run("dead", "list", "--json").stdout.splitlines())
    assert (first["payload"], first["not_shown"]) == (None, "encrypted, key 'of-2026'")
    assert (second["payload"], second["not_shown"]) == (["x" * 100], None)


def test_more_dead_letters_than_a_page(run: Run) -> None:
    run("add", "-t", "q1", "1", "-n", "250")
    for _ in range(3):
        bury()
    found = run("dead", "list", "--json")
    assert len(found.stdout.splitlines()) == 100
    assert "the first 100" in found.stderr
    numbers = [
        json.loads(line)["number"]
        for line in run("dead", "list", "--json", "--all").stdout.splitlines()
    ]
    assert numbers == list(range(1, 251))
    assert len(run("dead", "list", "--json", "--limit", "150").stdout.splitlines()) == 150
    assert run("dead", "discard", "--queue", "q1", "--limit", "240").stdout == (
        "discarded 240 dead letters\n"
    )
    assert run("dead", "retry", "241", "242", "999").stdout == "put back 2 of 3 dead letters\n"
    assert run("dead", "retry", "--task", "q1").stdout == "put back 8 dead letters\n"
    assert counts(run)["q1"]["waiting"] == 10


@pytest.mark.parametrize("verb", ["retry", "discard"])
def test_it_must_be_said_which_dead_letters(run: Run, verb: str) -> None:
    assert "say which" in run("dead", verb, code=2).stderr
    assert "contradicts" in run("dead", verb, "--all", "5", code=2).stderr
    run("dead", verb, "0", code=2)
    run("dead", verb, "99999999999999999999", code=2)


# release


def test_a_parked_shard_is_released(run: Run) -> None:
    def fail(item: int) -> None:
        raise ValueError(item)

    yard = Yard("sqlite:///taskyard.db")
    options: Any = {"ordered": True, "shard": "item", "on_error": "park", "retry": 0}
    yard.task(name="t", queue="q", **options)(fail).enqueue(7)
    yard.run_worker(burst=True)
    yard.close()
    assert counts(run)["q"]["parked"] == 1
    assert run("release", "q/t", "7").stdout == "released shard '7' of q/t\n"
    assert "is not parked" in run("release", "q/t", "7", code=1).stderr
    assert counts(run)["q"]["parked"] == 0
    run("release", "t", code=2)


# cancel


def test_messages_are_cancelled(run: Run) -> None:
    def work(item: int) -> int:
        return item

    yard = Yard("sqlite:///taskyard.db")
    result = yard.task(name="t", queue="q")(work).enqueue(1)
    yard.close()
    assert "id must be a text" in run("cancel", result.id, "", code=1).stderr
    assert run("cancel", result.id, "other").stdout == (
        f"{result.id}: removed, it was waiting\n"
        "other: noted, there is no record of it; if it waits, it is never run\n"
    )
    again = run("cancel", result.id, code=1)
    assert again.stdout == f"{result.id}: nothing done, it had ended\n"
    assert "nothing to cancel" in again.stderr
    assert counts(run)["q"]["totals"]["cancelled"] == 1
    run("cancel", code=2)


def test_who_holds_a_key_is_cancelled(run: Run) -> None:
    def work(user: str, item: int) -> int:
        return item

    yard = Yard("sqlite:///taskyard.db")
    task = yard.task(name="t", queue="q", unique=("user", "item"), shard="user")(work)
    order = yard.task(name="o", queue="q", unique="item", order="us", ordered=True)(work)
    results = [task.enqueue("ann", 7), task.enqueue("bob", 7), order.enqueue("ann", 7)]
    of_task = ("--key", '("ann",7)', "--task", "q/t")
    assert run("cancel", *of_task, "--shard", "ann").stdout == (
        "key '(\"ann\",7)': removed, it was waiting\n"
    )
    again = run("cancel", *of_task, "--shard", "ann", code=1)
    assert again.stdout == "key '(\"ann\",7)': nothing done, nobody holds it\n"
    assert "nothing to cancel" in again.stderr
    run("cancel", *of_task, code=1)
    of_order = ("--key", "7", "--task", "q/o", "--order", "us")
    assert run("cancel", *of_order).stdout == "key '7': removed, it was waiting\n"
    assert [result.status() for result in results] == ["cancelled", "waiting", "cancelled"]
    yard.close()
    unknown = run("cancel", "--key", "7", "--task", "q/other", code=1)
    assert "there is no task q/other" in unknown.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--key", "k"), "give --task QUEUE/TASK"),
        (("id", "--key", "k", "--task", "q/t"), "give ids, or a unique key"),
        (("id", "--task", "q/t"), "give --key"),
        (("id", "--shard", "s"), "give --key"),
        (("--key", "k", "--task", "t"), "write QUEUE/TASK"),
        (("--task", "q/t"), "give ids, or a unique key"),
    ],
)
def test_what_says_no_key_is_refused(run: Run, args: tuple[str, ...], said: str) -> None:
    run("add", "-t", "q", "1")
    assert said in run("cancel", *args, code=2).stderr


# explain


def test_a_message_is_explained(run: Run) -> None:
    def work(item: int) -> int:
        return item

    yard = Yard("sqlite:///taskyard.db")
    result = yard.task(name="t", queue="q")(work).enqueue(1)
    assert run("explain", result.id).stdout == (f"{result.id}: no worker that is alive knows q/t\n")
    yard.pause("q")
    shown = json.loads(run("explain", result.id, "--json").stdout)
    assert (shown["reason"], shown["text"]) == ("paused", "the queue q is paused")
    assert (shown["id"], shown["queue"], shown["task"]) == (result.id, "q", "t")
    assert shown["until"] is None
    yard.resume("q")
    yard.cancel(result.id)
    shown = json.loads(run("explain", result.id, "--json").stdout)
    yard.close()
    assert shown["reason"] == "cancelled"
    assert shown["since"].endswith("+00:00")


def test_a_dead_letter_is_explained(run: Run) -> None:
    run("add", "-t", "q1", "{}")
    bury()
    shown = json.loads(run("explain", "an-id", "--json").stdout)
    assert shown["failure"] == {
        "reason": "failed",
        "kind": "ValueError",
        "message": "too \x1b[31mred",
    }
    assert shown["letter"] == 1


def test_an_unknown_id(run: Run) -> None:
    run("add", "-t", "q1", "{}")
    assert "nothing is known of this id" in run("explain", "nobody", code=1).stdout
    assert json.loads(run("explain", "nobody", "--json", code=1).stdout)["reason"] == "unknown"
    run("explain", code=2)


# start, worker: only what is refused before anything is begun


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["start"], "Missing option"),
        (["start", "-t", "q1"], "requires 2 arguments"),
        (["start", "-t", "q1", "print", "-t", "q1", "print"], "names the queue q1 twice"),
        (["start", "-t", "q1", "print", "-b", "0"], "batch size"),
        (["start", "-t", "q1", "print", "-b", "1000000"], "batch size"),
        (["start", "-t", "q1", "print", "-i", "-1"], "at least 0"),
        (["start", "-t", "q1", "print", "-i", "nan"], "number of seconds"),
        (["start", "-t", "q1", "print", "-n", "-1"], "processes"),
        (["start", "-t", "q1", "print", "-n", "9999"], "processes"),
        (["start", "-t", "q1", "print", "-e", "shrug"], "'shrug'"),
        (["worker", "tasks"], "write MODULE:YARD"),
        (["worker", ":yard"], "write MODULE:YARD"),
        (["worker", "tasks:yard", "-c", "0"], "concurrency"),
        (["worker", "tasks:yard", "-q", "a:0"], "the concurrency of queue 'a'"),
        (["worker", "tasks:yard", "-q", "a,b:1"], "or none"),
        (["worker", "tasks:yard", "--lease", "0"], "lease"),
        (["worker", "tasks:yard", "--grace", "-1"], "grace"),
        (["worker", "tasks:yard", "--max-messages", "0"], "max_messages"),
    ],
)
def test_wrong_options_are_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str
) -> None:
    # The log would go to the runner's stderr, which is closed behind it.
    monkeypatch.setattr("taskyard.cli.options.configure", lambda *_: None)
    assert said in run(*args, code=2).stderr


def test_a_log_file_that_cannot_be_written_is_refused(run: Run) -> None:
    found = run("worker", "tasks:yard", "--log-file", "nowhere/log", code=2)
    assert "--log-file: [Errno 2] No such file or directory" in found.stderr


@pytest.mark.parametrize(
    ("text", "queues"),
    [
        ("a", ["a"]),
        ("a, b", ["a", "b"]),
        ("a:3,b:1", {"a": 3, "b": 1}),
        ("a:b:3", {"a:b": 3}),
    ],
)
def test_queues_are_read(text: str, queues: object) -> None:
    assert parse_queues(text) == queues


@pytest.mark.parametrize("text", ["", "a,", "a,a", "a:3,b", "a:x", "a:-1", ":3"])
def test_wrong_queues(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_queues(text)


# Lines


class Stream:
    """Something that is read in pieces and is no file."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces, b""]

    def fileno(self) -> int:
        raise OSError

    def read(self, size: int) -> bytes:
        assert size > 0
        return self._pieces.pop(0)


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([], []),
        ([b"\n"], [b""]),
        ([b"a\nb"], [b"a", b"b"]),
        ([b"a", b"b\n", b"c\n\nd", b"\n"], [b"ab", b"c", b"", b"d"]),
    ],
)
def test_lines_are_put_together(pieces: list[bytes], lines: list[bytes]) -> None:
    assert list(read_lines(Stream(*pieces))) == lines  # type: ignore[arg-type]


def test_a_line_without_end_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskyard.cli.lines.LONGEST", 10)
    stream = Stream(b"ok\n12345", b"678901")
    lines = read_lines(stream)  # type: ignore[arg-type]
    assert next(lines) == b"ok"
    with pytest.raises(LineTooLong):
        next(lines)


def test_a_batch_that_was_declared_elsewhere_gets_what_was_added(run: Run) -> None:
    run("add", "-t", "q1", "1", "-t", "q1", '"two"')
    got: list[object] = []
    yard = Yard("sqlite:///taskyard.db")
    yard.task(name="q1", queue="q1", batch=Batch(5))(got.extend)
    yard.run_worker(burst=True)
    yard.close()
    assert got == [1, "two"]


# Rate limits


def test_a_limit_is_set_and_shown(run: Run) -> None:
    run("add", "-t", "q1", "1")
    assert run("rate", "q1", "100/60").stdout == "q1: 100/60\n"
    assert run("rate", "q1", "-t", "q1", "5/1", "--burst", "3").stdout == "q1/q1: 5/1 burst 3\n"
    said = run("rate", "q1", "--task", "q1", "--shards", "0.5/10").stdout
    assert said == "each shard of q1/q1: 0.5/10\n"
    assert counts(run)["q1"]["limits"] == {
        "queue": {"count": 100, "per": 60, "burst": 1},
        "task": {"count": 5, "per": 1, "burst": 3},
        "shard": {"count": 0.5, "per": 10, "burst": 1},
        "changed": ["queue", "shard", "task"],
    }
    heading, row = run("queues").stdout.splitlines()
    assert "limits" in heading.split()
    assert "q 100/60*, 5/1 burst 3*, s 0.5/10*" in row
    assert run("rate", "q1", "--none").stdout == "q1: no limit\n"
    assert "q none*" in run("queues").stdout
    for more in ([], ["--task", "q1"], ["--task", "q1", "--shards"]):
        assert "what is declared holds" in run("rate", "q1", "--declared", *more).stdout
    assert "limits" not in run("queues").stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "give one of COUNT/SECONDS, --none and --declared"),
        (["5/1", "--none"], "give one of"),
        (["--declared", "--none"], "give one of"),
        (["5"], "write COUNT/SECONDS, as 100/60"),
        (["five/1"], "write COUNT/SECONDS"),
        (["5/1", "--shards"], "--shards is about a task: give --task"),
        (["--none", "--burst", "3"], "--burst goes with COUNT/SECONDS"),
        (["5/1", "--burst", "0"], "0 is not in the range"),
    ],
)
def test_wrong_use_of_rate(run: Run, args: list[str], said: str) -> None:
    run("add", "-t", "q1", "1")
    assert said in run("rate", "q1", *args, code=2).stderr


@pytest.mark.parametrize("limit", ["0/1", "nan/1", "5/0", "inf/1", "5/nan"])
def test_limits_that_are_none(run: Run, limit: str) -> None:
    run("add", "-t", "q1", "1")
    assert "rate limit" in run("rate", "q1", limit, code=1).stderr
