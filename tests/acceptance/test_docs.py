"""What the README and the tutorial say is run as a user would, and the reference is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from tests.acceptance.programs import WHOLE_LINES

from taskyard import errors
from taskyard.cli.group import taskyard
from taskyard.message import Reason, State
from taskyard.policy import Batch, Policy, Retry
from taskyard.worker import WorkerSettings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]

FENCE = re.compile(
    r"(?P<skip><!-- not run[^>]*-->\n)?^```(?P<language>\w+)(?P<rest>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    language: str
    title: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page that are to be run, in order."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        if found["skip"]:
            continue
        title = re.search(r'title="([^"]+)"', found["rest"])
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(found["language"], title[1] if title else "", found["text"], line)


def expect(given: str, expected: str, where: str) -> None:
    """Each line that the page shows appears in this order; … stands for anything."""
    rest = [" ".join(line.split()) for line in given.splitlines()]
    for line in expected.splitlines():
        wanted = " ".join(line.split())
        if wanted == "…":
            continue
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in wanted.split("…")))
        while rest and not pattern.fullmatch(rest[0]):
            rest.pop(0)
        assert rest, f"{where}: {wanted!r} is not in the output:\n{given}"
        rest.pop(0)


def run(command: list[str], folder: Path, where: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{WHOLE_LINES}{os.pathsep}{folder}",
        "PYTHONDONTWRITEBYTECODE": "1",  # a page replaces tasks.py within a second
        "COLUMNS": "200",
    }
    environment.pop("TASKYARD_BROKER", None)
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{where} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def run_console(block: Block, folder: Path, where: str) -> None:
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        expect(run(["bash", "-c", command], folder, f"{where}: {command}"), expected, where)


@pytest.mark.timeout(240)  # each command starts a Python
@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_page_runs(name: str, tmp_path: Path) -> None:
    output = ""
    for block in blocks(ROOT / name):
        where = f"{name}:{block.line}"
        if block.language == "python" and block.title:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            output = run([sys.executable, "-c", block.text], tmp_path, where)
        elif block.language == "text":
            expect(output, block.text, where)
        elif block.language == "console":
            run_console(block, tmp_path, where)


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, f"{page.name}:{block.line}", "exec", flags=0x2000)  # await outside


# The reference


def mentions(page: str) -> set[str]:
    """The words in code style of a page: whole, and up to the first blank, `=` or bracket."""
    text = (DOCS / "reference" / page).read_text(encoding="utf-8")
    found = set(re.findall(r"`([^`\n]+)`", text))
    return found | {re.split(r"[ =(\[]", word)[0] for word in found}


def test_policy_options_are_documented() -> None:
    wanted = {item.name for item in fields(Policy)} | {item.name for item in fields(Retry)}
    wanted |= {item.name for item in fields(Batch)}
    assert wanted <= mentions("policy.md")


def test_worker_settings_are_documented() -> None:
    assert {item.name for item in fields(WorkerSettings)} <= mentions("worker.md")


def test_errors_are_documented() -> None:
    text = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    assert [name for name in errors.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_states_and_reasons_are_documented() -> None:
    assert {str(item) for item in [*State, *Reason]} <= mentions("results.md")


def commands(command: click.Command, name: str = "taskyard") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    if command.invoke_without_command:
        yield name, command
    context = click.Context(command, info_name=name)
    for child in command.list_commands(context):
        found = command.get_command(context, child)
        assert found is not None
        yield from commands(found, f"{name} {child}")


def test_commands_are_documented() -> None:
    text = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    section = re.compile(r"^## `([^`]+)`\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    sections: dict[str, str] = dict(section.findall(text))
    assert dict(commands(taskyard)).keys() == sections.keys()
    missing = [
        f"{name} {spelling}"
        for name, command in commands(taskyard)
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for spelling in parameter.opts
        if f"`{spelling}" not in sections.get(name, "")
    ]
    assert missing == []


# Words

OTHER_WORDS = {
    r"dead[- ]letter queue": "dead letters",
    r"\bDLQ\b": "dead letters",
    r"\bdead-letters?\b": "dead letter",
    r"\bdeadletters?\b": "dead letter",
    r"\bre-deliver\w*": "redelivered",
    r"\bre-queue\w*|\brequeue\w*": "given back",
    r"\bconsumers?\b": "worker",
    r"\bjobs?\b": "task or message",
    r"\bmicro-?batch\w*": "batch",
    r"\bparked messages?\b": "parked shard",
    r"\bsub-?tasks?\b": "task",
    r"\bnack(ed)?\b|\back(ed)?\b": "settle",
    r"\bback-?offs\b": "back-off",
    r"\bserializ\w+|\bbehavior\w*|\bcolor\w*|\bhonor\w*": "British spelling",
}
OWN_PAGES = {"architecture.md", "glossary.md"}


def prose(page: Path) -> str:
    """A page without code."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"^(:::|    options:|      (members|filters):).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`|\]\([^)]*\)|!(?=\[)|<!--.*?-->", "", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_words_are_those_of_the_glossary(page: Path) -> None:
    if page.name in OWN_PAGES or page.parent.name == "decisions":
        return
    text = prose(page)
    found = {
        match[0]: f"say {better}"
        for other, better in OTHER_WORDS.items()
        for match in re.finditer(other, text, re.IGNORECASE)
    }
    assert found == {}
    assert "!" not in text
