"""What the package promises about its names and about what importing it costs."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from types import ModuleType

import taskyard

# Loaded by the parts that use them, never by `import taskyard`.
HEAVY = {
    "attr",
    "attrs",
    "click",
    "hiredis",
    "multiprocessing",
    "opentelemetry",
    "prometheus_client",
    "pydantic",
    "redis",
    "rich",
    "sqlite3",
}


def public_modules() -> list[ModuleType]:
    """Every module under taskyard whose path has no `_name` in it (`__main__` runs a program)."""

    def fail(name: str) -> None:
        raise ImportError(f"cannot import {name}")

    found = pkgutil.walk_packages(taskyard.__path__, "taskyard.", onerror=fail)
    names = [module.name for module in found if "._" not in module.name]
    return [taskyard, *map(importlib.import_module, names)]


def defined_in(module: ModuleType) -> set[str]:
    """The public classes and functions that this very module defines."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }


def test_every_name_the_package_exports_exists() -> None:
    assert [name for name in taskyard.__all__ if not hasattr(taskyard, name)] == []


def test_all_of_each_public_module_matches_what_it_defines() -> None:
    wrong = {}
    for module in public_modules():
        if (exported := getattr(module, "__all__", None)) is None:
            continue
        problems = {
            "listed, but missing": {name for name in exported if not hasattr(module, name)},
            "defined, but not listed": defined_in(module) - set(exported),
            "listed twice": {name for name in exported if list(exported).count(name) > 1},
        }
        if any(problems.values()):
            wrong[module.__name__] = {what: names for what, names in problems.items() if names}
    assert wrong == {}


def test_importing_taskyard_loads_nothing_heavy() -> None:
    code = (
        "import json, sys; before = set(sys.modules); import taskyard; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(answer.stdout))
    assert "taskyard" in loaded
    assert loaded & HEAVY == set()
