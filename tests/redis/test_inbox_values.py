"""What the values in an inbox become, and why some cannot become messages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from taskyard import Yard
from taskyard.brokers.base import Put
from taskyard.brokers.inboxes import Misfit
from taskyard.message import Reason
from taskyard.policy import Batch
from taskyard.worker.inbox import Reader

yard = Yard("memory://")


@yard.task
def pair(number: int, text: str = "x") -> None: ...


@yard.task
def one(item: Any) -> None: ...


@yard.task(batch=Batch(10))
def numbers(items: list[int]) -> None: ...


@yard.task(shard="user")
def by_name(user: UUID, text: str = "") -> None: ...


@yard.task(shard=lambda user, text="": user.int % 8)
def by_function(user: UUID, text: str = "") -> None: ...


@yard.task(batch=Batch(10), shard="user")
def batch_by_name(items: list[dict[str, Any]]) -> None: ...


@yard.task(order="same", ordered=True, priority=3)
def in_order(number: int) -> None: ...


def read(value: Any, *tasks: Any) -> Put:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    found = Reader("q", tasks).read(data)
    assert isinstance(found, Put), found
    assert len(found.bodies) == 1
    return found


def refused(value: Any, *tasks: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    found = Reader("q", tasks).read(data)
    assert isinstance(found, Misfit), found
    assert found.dead.failure.reason == Reason.UNREADABLE
    assert found.dead.id == ""
    return found.dead.failure.message


@pytest.mark.parametrize(
    ("task", "value", "args"),
    [
        (pair, [1, "a"], (1, "a")),
        (pair, [1], (1,)),
        (pair, {"number": 1}, (1,)),
        (pair, {"text": "b", "number": 2}, (2, "b")),
        (one, 7, (7,)),
        (one, [1, 2], ([1, 2],)),
        (one, {"a": None}, ({"a": None},)),
        (one, None, (None,)),
        (one, b' "text" ', ("text",)),
        (one, b'{"a": 1, "a": 2}', ({"a": 2},)),
        (one, {"value": 1}, ({"value": 1},)),
        (one, {"taskyard": {}, "value": {"taskyard": 1}}, ({"taskyard": 1},)),
        (numbers, 5, (5,)),
        (in_order, 9, (9,)),
    ],
)
def test_a_value_is_what_enqueue_many_takes(task: Any, value: Any, args: tuple[Any, ...]) -> None:
    put = read(value, task)
    message_id, found, named = task.codec.decode(put.bodies[0])
    assert (found, named) == (args, {})
    assert len(message_id) == 16
    assert (put.group, put.member, put.priority) == (
        task.group,
        task.envelope_task,
        task.policy.priority,
    )


def test_options() -> None:
    options = {"delay": 1.5, "priority": -3, "shard": "s", "id": "mine", "task": None, "due": None}
    put = read({"taskyard": options, "value": 1}, one)
    assert (put.delay, put.due, put.priority, put.shard) == (1_500_000, 0, -3, "s")
    assert one.codec.decode(put.bodies[0])[0] == "mine"


@pytest.mark.parametrize(
    ("due", "seconds"),
    [
        (1_900_000_000, 1_900_000_000),
        (1_900_000_000.25, 1_900_000_000.25),
        ("2030-03-17T17:46:40Z", 1_900_000_000),
        ("2030-03-17T19:46:40.500+02:00", 1_900_000_000.5),
    ],
)
def test_due(due: Any, seconds: float) -> None:
    put = read({"taskyard": {"due": due}, "value": 1}, one)
    assert put.due == round(seconds * 1e6)
    assert datetime.fromtimestamp(put.due / 1e6, UTC).year == 2030


USER = "0000000A-0000-0000-0000-00000000000F"


@pytest.mark.parametrize(
    ("task", "value", "shard"),
    [
        # As the handler gets it, so that it is the shard of `enqueue` too.
        (by_name, [USER], USER.lower()),
        (by_name, {"user": USER, "text": "t"}, USER.lower()),
        (by_function, [USER], "7"),
        (by_function, {"taskyard": {"shard": 3}, "value": [USER]}, "3"),
        (batch_by_name, {"user": 5}, "5"),
        (pair, [1], ""),
    ],
)
def test_shards(task: Any, value: Any, shard: str) -> None:
    assert read(value, task).shard == shard


def test_results_are_kept_under_the_given_id() -> None:
    @yard.task(name="kept", result_ttl=60)
    def kept(number: int) -> int:
        return number

    put = read({"taskyard": {"id": "a"}, "value": 1}, kept)
    assert (put.ids, put.record_ttl) == (["a"], 60_000_000)


def test_one_of_several_tasks_is_named() -> None:
    assert read({"taskyard": {"task": "one"}, "value": 1}, pair, one).group == one.group
    assert read({"taskyard": {"task": "pair"}, "value": [1]}, pair, one).group == pair.group


OBJECT = "an object with the key 'taskyard'"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"", "no JSON: it is empty"),
        (b"[1", "no JSON: Input data was truncated"),
        (b"{'a': 1}", "no JSON: JSON is malformed: object keys must be strings (byte 1)"),
        (b"1 2", "no JSON: JSON is malformed: trailing characters"),
        (b"[NaN]", "no JSON: JSON is malformed: invalid character (byte 1)"),
        (b"1e999", "no JSON: Number out of range"),
        (b"\xff\xfe\x00", "no JSON: "),
        (b'"\xc3"', "no JSON: 'utf-8' codec can't decode byte 0xc3"),
        (b'"\\ud800"', "no JSON: "),
        (b"\x92\xa1x\x91\x01", "no JSON: "),  # a message as this library writes it
        (b"[" * 100_000 + b"]" * 100_000, "it is nested too deeply"),
        (b"123456789012345678901234567890", "a whole number beyond 64 bits cannot be sent"),
        ({"taskyard": {}}, f"{OBJECT} must have the key 'value' too"),
        ({"taskyard": {}, "value": 1, "x": 1}, f"{OBJECT} has 'value' beside it and nothing else"),
        ({"taskyard": [], "value": 1}, "'taskyard' must be an object of options, not []"),
        ({"taskyard": {"delai": 1}, "value": 1}, "unknown option 'delai'; there are delay, due, "),
        ({"taskyard": {"delay": -1}, "value": 1}, "delay must be at least 0 seconds, not -1"),
        ({"taskyard": {"delay": "1"}, "value": 1}, "delay must be a number of seconds"),
        ({"taskyard": {"delay": True}, "value": 1}, "delay must be a number of seconds"),
        ({"taskyard": {"due": "2030-01-01"}, "value": 1}, "or a text with a zone"),
        ({"taskyard": {"due": "soon"}, "value": 1}, "due must be seconds since 1970"),
        ({"taskyard": {"due": True}, "value": 1}, "due must be seconds since 1970"),
        ({"taskyard": {"due": 1_900_000_000_000}, "value": 1}, "(not milliseconds)"),
        ({"taskyard": {"due": 90_000_000_000}, "value": 1}, "due must be within a hundred years"),
        ({"taskyard": {"due": 1, "delay": 1}, "value": 1}, "delay= and due= contradict each other"),
        ({"taskyard": {"priority": 1024}, "value": 1}, "priority must be a whole number from"),
        ({"taskyard": {"priority": 1.0}, "value": 1}, "priority must be a whole number from"),
        ({"taskyard": {"id": 5}, "value": 1}, "id must be a text of 1 to 200 characters"),
        ({"taskyard": {"id": ""}, "value": 1}, "id must be a text of 1 to 200 characters"),
        ({"taskyard": {"shard": ["a"]}, "value": 1}, "a shard key must be a str"),
        ({"taskyard": {"shard": "a\0"}, "value": 1}, "a shard key must be valid Unicode"),
        ({"taskyard": {"task": "none"}, "value": 1}, "the queue 'q' has no task 'none'; there are"),
        ({"taskyard": {"task": 1}, "value": 1}, "the queue 'q' has no task 1; there are: one"),
    ],
)
def test_what_is_refused(value: Any, text: str) -> None:
    assert text in refused(value, one)


@pytest.mark.parametrize(
    ("task", "value", "text"),
    [
        (pair, ["a"], "argument 'number': Expected `int`, got `str`"),
        (pair, [], "missing a required argument: 'number'"),
        (pair, [1, "a", 2], "too many positional arguments"),
        (pair, {"number": 1, "nummer": 1}, "unexpected keyword argument 'nummer'"),
        (pair, 7, "an item must be a tuple of arguments by position or a mapping"),
        (numbers, "5", "Expected `int`, got `str`"),
        (by_name, ["nobody"], "Invalid UUID"),
        (batch_by_name, {"name": 5}, "the shard key 'user' cannot be made of this message"),
    ],
)
def test_what_does_not_fit_the_handler(task: Any, value: Any, text: str) -> None:
    message = refused(value, task)
    assert text in message
    assert not message.startswith("item 0")


def test_with_several_tasks_a_value_must_name_its_own() -> None:
    found = Reader("q", [pair, one]).read(b"1")
    assert isinstance(found, Misfit)
    assert "has several tasks (one, pair)" in found.dead.failure.message
    assert found.group == one.group


# The page about it

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "other-languages.md"


def test_examples_for_redis_cli_are_what_they_say() -> None:
    lines = re.findall(
        r"^\$ redis-cli LPUSH taskyard:inbox:q1 (.*)$", PAGE.read_text(), re.MULTILINE
    )
    values = [value for line in lines for value in re.findall(r"'([^']*)'", line)]
    assert len(values) == 4
    for value in values[:-1]:
        read(value.encode(), one)
    assert "no JSON" in refused(values[-1].encode(), one)


def test_examples_of_options() -> None:
    [block] = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert read(block.encode(), one).priority == -1
    table = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(table) == ["delay", "due", "id", "priority", "shard", "task"]


def test_the_example_for_node_can_be_read(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    [block] = re.findall(r"^```js [^\n]*\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    script = tmp_path / "push.mjs"
    script.write_text(block)
    subprocess.run([node, "--check", script], check=True, timeout=50)
