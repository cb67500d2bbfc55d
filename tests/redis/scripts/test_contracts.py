"""Every script says what it takes and gives, and the server takes it as it is."""

from __future__ import annotations

import re

import pytest
from tests.redis.scripts.fragments import LUA, text_of
from tests.servers.server import RedisServer

from taskyard.brokers.redis.scripts import NAMES, load_script

FRAGMENTS = sorted(path.name.removesuffix(".lua") for path in (LUA / "shared").iterdir())
FILES = [*NAMES, *(f"shared/{name}" for name in FRAGMENTS)]


def header(name: str) -> str:
    """The comment that a file begins with, its includes left out."""
    found = re.match(r"(?:--.*\n)+", text_of(name))
    assert found is not None
    return re.sub(r"-- include .*\n", "", found[0])


def code(name: str) -> str:
    """A file without its comments."""
    return re.sub(r"--.*", "", text_of(name))


def section(name: str, title: str) -> str:
    """A part of a header: its line and those behind it that are indented."""
    found = re.search(rf"^-- {title}\b.*\n(?:--  .*\n)*", header(name), re.MULTILINE)
    assert found is not None, f"{name} does not say its {title}"
    return found[0]


def test_every_script_has_a_name() -> None:
    files = {path.name.removesuffix(".lua") for path in LUA.iterdir() if path.is_file()}
    assert files == {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_opens_with_its_contract(name: str) -> None:
    assert re.match(rf"-- {name}: \w.*", text_of(name))
    assert re.match(r"-- KEYS  1: the \w+", section(name, "KEYS"))
    assert section(name, "ARGV").startswith("-- ARGV  1 slot, 2 number, 3 clock\n")
    assert len(section(name, "Reply").split()) > 2


@pytest.mark.parametrize("name", NAMES)
def test_a_script_names_its_arguments(name: str) -> None:
    named = re.findall(r"^--       (\d+)(…?) ", section(name, "ARGV"), re.MULTILINE)
    used = {int(index) for index in re.findall(r"ARGV\[(\d+)\]", code(name))}
    used = {index for index in used if index > 3}
    several = re.findall(r"for \w+ = (\d+), #ARGV", code(name))
    assert {int(index) for index, _ in named} >= used
    assert {index for index, more in named if more} >= {*several}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_names_its_errors(name: str) -> None:
    refused = {*re.findall(r"refuse\('(\w+)'", load_script(name).source)}
    assert {*re.findall(r"TASKYARD (\w+)", header(name))} == refused


@pytest.mark.parametrize("name", NAMES)
def test_the_server_takes_it(name: str, redis_server: RedisServer) -> None:
    script = load_script(name)
    assert redis_server.client().script_load(script.source) == script.sha
    # Lua allows 200 in a function; what a script is made of leaves some for the next change.
    assert len(re.findall(r"^local ", script.source, re.MULTILINE)) < 180


@pytest.mark.parametrize("name", NAMES)
def test_each_fragment_is_there_once_and_before_it_is_used(name: str) -> None:
    source = load_script(name).source
    assert "-- include" not in source
    defined = re.findall(r"^local function (\w+)", source, re.MULTILINE)
    assert len(defined) == len({*defined})


@pytest.mark.parametrize("name", FILES)
def test_keys_are_of_the_container(name: str) -> None:
    text = code(name)
    for key in re.findall(r"'(:[a-z][^']*)'", text):
        assert re.search(rf"(\bT|KEYS\[1\]) \.\. '{key}'", text), f"{key} has no container"


@pytest.mark.parametrize("name", FILES)
def test_style(name: str) -> None:
    text = text_of(name)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    for number, line in enumerate(text.splitlines(), 1):
        assert line == line.rstrip(), f"{name}:{number} ends in blanks"
        assert "\t" not in line, f"{name}:{number} has a tab"
        assert len(line) <= 100, f"{name}:{number} is too long"
    assert len(text.splitlines()) < 500


def test_nothing_is_unused() -> None:
    whole = "\n".join(map(code, FILES))
    named = re.findall(r"^local (?:function )?([\w, ]+)", whole, re.MULTILINE)
    for name in {name.strip() for names in named for name in names.split(",")}:
        assert len(re.findall(rf"\b{name}\b", whole)) > 1 or name == "_", f"{name} is unused"


WHOLE = {
    ":g:": "the counters of a group",
    ":names": "one for each group",
    "record_key": "a record",
    "claim_key": "a claim",
    "list_key": "a lane of fewer messages than a batch has",
    "back_key": "a lane of fewer messages than a batch has",
    "OUT": "a lot",
    ":claims": "the open claims; when some were made of a group that is declared only now",
    "CLAIMS": "the open claims; when a message is cancelled that runs",
    ":epochs": "one for each queue that was split; when a claim is gone",
}
"""The keys that are read as a whole, and what that is at most."""


def test_what_is_read_as_a_whole_is_known() -> None:
    text = "\n".join(map(code, FILES))
    found = re.findall(r"call\('(?:HGETALL|HKEYS|HVALS|SMEMBERS)', (.*)", text)
    found += re.findall(r"call\('\w*RANGE', (.*?), -?\d, -1\)", text)
    for match in re.finditer(r"call\('\w*RANGEBY\w*', (.*)", text):
        if "LIMIT" not in text[match.start() : match.end() + 100]:
            found.append(match[1])
    for key in found:
        assert any(known in key for known in WHOLE), f"{key} is read as a whole"
    for known in WHOLE:
        assert any(known in key for key in found), f"{known} is not"
