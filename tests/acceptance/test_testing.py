"""Tests of a program that uses taskyard, as its author would write and run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.pytests import run_pytest, write_titled_blocks

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "testing.md"

ENDPOINT = '''
import threading

from taskyard import Yard

yard = Yard("redis://nobody.invalid:6379/0")


@yard.task
async def store(text: str) -> str:
    return text.upper()


def endpoint(text):
    """What a web framework runs in a thread of its own."""
    answer = []
    thread = threading.Thread(target=lambda: answer.append(store.enqueue(text).get(timeout=5)))
    thread.start()
    thread.join()
    return answer
'''


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    write_titled_blocks(PAGE, tmp_path)
    return tmp_path


def test_the_examples_of_the_page_pass(page: Path) -> None:
    done = run_pytest(page, "-q")
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout


def test_a_broken_handler_fails_the_tests_with_its_own_traceback(page: Path) -> None:
    shop = page / "shop.py"
    broken = shop.read_text(encoding="utf-8").replace("outbox.append(name)", "outbox.push(name)")
    shop.write_text(broken, encoding="utf-8")
    done = run_pytest(page, "-q", "test_at_once.py")
    assert done.returncode == 1
    assert re.search(r"^shop\.py:\d+: AttributeError", done.stdout, re.MULTILINE), done.stdout
    assert "raised by message" in done.stdout


def test_code_that_enqueues_in_threads(tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text(ENDPOINT, encoding="utf-8")
    (tmp_path / "test_web.py").write_text(
        "from taskyard import testing\n"
        "from web import endpoint, yard\n\n\n"
        "def test_endpoint():\n"
        "    with testing.inline(yard):\n"
        "        assert endpoint('a') == ['A']\n",
        encoding="utf-8",
    )
    done = run_pytest(tmp_path, "-q")
    assert done.returncode == 0, done.stdout


def test_it_needs_no_pytest() -> None:
    code = "import sys, taskyard.testing; print({'pytest', '_pytest', 'redis'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
