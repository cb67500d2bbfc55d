"""Runs tests as somebody else would who has only the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["run_pytest", "write_titled_blocks"]

TITLED = re.compile(r'^```python title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def write_titled_blocks(page: Path, folder: Path) -> None:
    """Write the Python files that a page shows."""
    for title, text in TITLED.findall(page.read_text(encoding="utf-8")):
        (folder / title).write_text(text, encoding="utf-8")
