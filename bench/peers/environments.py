"""An environment per peer, in `.bench/peers/`, made once and kept."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from bench.measure import ROOT

PLACE = ROOT / ".bench" / "peers"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
TIMEOUT = 600


class NotInstalled(Exception):
    """An environment could not be made; says why."""


def sections(requirements: Path = REQUIREMENTS) -> dict[str, str]:
    """The requirements of each peer."""
    text = requirements.read_text(encoding="utf-8")
    _, *parts = re.split(r"^# \[(\w+)\]\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def python_of(peer: str, requirements: str) -> str:
    """The interpreter of a peer's environment, which is made unless it is there as it should be.

    Raises:
        NotInstalled: it could not be made.
    """
    place = PLACE / peer
    python, stamp = place / "bin" / "python", place / "requirements.txt"
    # (An environment knows the place it was made in, so one that was moved is made anew.)
    recipe = f"# {sys.version}\n# {place}\n{requirements}"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == recipe:
        return str(python)
    PLACE.mkdir(parents=True, exist_ok=True)
    (PLACE.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(place)])
    wanted = place / "wanted.txt"
    wanted.write_text(recipe, encoding="utf-8")
    quiet = ["--quiet", "--disable-pip-version-check"]
    _run([str(python), "-m", "pip", "install", *quiet, "-r", str(wanted)])
    wanted.rename(stamp)
    return str(python)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(str(error)) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise NotInstalled(" ".join(lines[-1:]))
