"""What a type checker sees: the snippets in `tests/typing`, by one run of mypy."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNIPPETS = sorted((ROOT / "tests/typing").glob("*.py"))
EXPECTED = re.compile(r"  # (type|error): (.+)$")
REPORTED = re.compile(r"^(?:.*/)?(\w+\.py):(\d+): (note|error): (.*?)(?:  \[([\w-]+)\])?$")
MODULES = re.compile(r"\b(?:taskyard|builtins|typing|datetime|collections)(?:\.\w+)*\.(?=\w)")

Found = dict[int, list[str]]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """By file and line: `type: …` and `error: …`."""
    cache = tmp_path_factory.mktemp("mypy")
    run = subprocess.run(
        [
            *[sys.executable, "-m", "mypy", "--strict", "--python-version", "3.11"],
            *["--config-file", "", "--no-error-summary", "--no-pretty", "--hide-error-context"],
            *["--cache-dir", str(cache), "--show-error-codes", *map(str, SNIPPETS)],
        ],
        cwd=ROOT,
        env={"MYPYPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stderr
    found: dict[str, Found] = defaultdict(lambda: defaultdict(list))
    for line in run.stdout.splitlines():
        match = REPORTED.match(line)
        assert match, line
        name, number, kind, text, code = match.groups()
        revealed = re.match(r'Revealed type is "(.*)"$', text)
        if revealed:
            type_ = MODULES.sub("", revealed[1]).replace("def ", "")
            found[name][int(number)].append(f"type: {type_}")
        elif kind == "error":
            found[name][int(number)].append(f"error: {code}")
    return found


@pytest.mark.timeout(600)  # mypy reads all of taskyard without a cache
@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda path: path.stem)
def test_what_a_type_checker_sees(snippet: Path, reported: dict[str, Found]) -> None:
    expected: Found = {}
    for number, line in enumerate(snippet.read_text().splitlines(), 1):
        if match := EXPECTED.search(line):
            expected[number] = [f"{match[1]}: {match[2]}"]
    assert expected, "a snippet that expects nothing"
    assert dict(reported[snippet.name]) == expected
