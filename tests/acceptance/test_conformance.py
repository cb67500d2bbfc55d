"""The conformance suite, as somebody would use it who writes a broker elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.pytests import run_pytest, write_titled_blocks

from taskyard.brokers.memory import MemoryBroker
from taskyard.errors import TestingError
from taskyard.testing.conformance import Capability, Subject, suite

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "writing-a-broker.md"

BROKER = """
from taskyard.brokers.memory import MemoryBroker


class MyBroker(MemoryBroker):
    pass
"""

FORGETFUL = """
from taskyard.brokers.memory import MemoryBroker


class MyBroker(MemoryBroker):
    def step(self, settlements, want):
        return super().step(settlements[1:], want)
"""

UNDER_WAY = """
from taskyard.brokers.memory import MemoryBroker


class MyBroker(MemoryBroker):
    def __init__(self, **options):
        super().__init__(**options)
        del self.schedules

    def set_rate(self, limited, rate, *, declared=False):
        raise NotImplementedError

    def put(self, puts, stored=None):
        if any(put.unique is not None for put in puts):
            raise NotImplementedError
        return super().put(puts, stored)

    def async_driver(self):
        raise NotImplementedError
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with the tests that the page shows."""
    write_titled_blocks(PAGE, tmp_path)
    return tmp_path


def hold(folder: Path, broker: str, test: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "my_broker.py").write_text(broker, encoding="utf-8")
    return run_pytest(folder, "-q", test, *arguments)


def test_a_broker_that_does_what_it_has_to_passes(elsewhere: Path) -> None:
    done = hold(elsewhere, BROKER, "test_my_broker.py", "-k", "TestSettle or TestDead")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout


def test_one_that_loses_a_settlement_fails_and_is_told_where(elsewhere: Path) -> None:
    done = hold(elsewhere, FORGETFUL, "test_my_broker.py", "-k", "test_what_is_done_is_gone")
    assert done.returncode == 1, done.stdout
    assert "2 failed" in done.stdout, "by both drivers"
    assert "testing/conformance/test_settle.py" in done.stdout
    assert "where 0 = total('done')" in done.stdout, "the values are shown"


def test_what_a_broker_is_declared_not_to_do_is_skipped(elsewhere: Path) -> None:
    of_it = "TestSchedules or TestGates or TestUnique or test_so_many_at_once"
    done = hold(elsewhere, UNDER_WAY, "test_under_way.py", "-rs", "-k", of_it)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout, "most of the gates are there"
    for missing in ("event loops", "rates", "schedules", "unique keys"):
        assert f"declared to be without: {missing}" in done.stdout


def test_every_test_of_every_module_is_in_the_suite() -> None:
    modules = list(Path(suite.__file__).parent.glob("test_*.py"))
    assert modules
    for module in modules:
        functions = re.findall(r"^def (test_\w+)", module.read_text(encoding="utf-8"), re.MULTILINE)
        name = f"Test{module.stem.removeprefix('test_').title().replace('_', '')}"
        assert name in suite.__all__
        assert functions
        assert [one for one in functions if not hasattr(getattr(suite, name), one)] == []
        assert len(set(functions)) == len(functions)


def test_what_cannot_be_declared_is_told() -> None:
    with pytest.raises(TestingError, match=r"has 'ordering'; expected .* Capability: THREADS, "):
        Subject(MemoryBroker, missing=[Capability.RATES, "ordering"])  # type: ignore[list-item]


def test_the_page_names_what_can_be_declared() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [one.name for one in Capability if f"| `{one.name}` |" not in text] == []


def test_only_the_suite_needs_pytest() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "import taskyard.testing\n"
        "try:\n"
        "    import taskyard.testing.conformance\n"
        "except taskyard.errors.MissingExtra as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'taskyard[testing]'" in done.stdout
