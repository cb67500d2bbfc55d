"""Run the tests on every supported Python that is found on this machine.

Each version gets an environment of its own in `.venvs/<version>`, made again when `pyproject.toml`
or the interpreter changes. Arguments are handed on to pytest. The exit status is non-zero if a
version failed, or if none was found.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = [f"3.{minor}" for minor in range(11, 16)]


def candidates(version: str) -> list[Path]:
    """Every file that may be this version: on PATH first, then what pyenv has built."""
    name = f"python{version}"
    on_path = [Path(folder) / name for folder in os.get_exec_path()]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    built = sorted((pyenv / "versions").glob(f"*/bin/{name}"), reverse=True)
    return [path for path in (*on_path, *built) if path.is_file()]


def runs_as(path: Path, version: str) -> bool:
    """Whether it runs (a pyenv shim may not), is that version, and can make an environment."""
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [path, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.strip() == version


def find(version: str) -> Path | None:
    return next((path for path in candidates(version) if runs_as(path, version)), None)


def prepare(version: str, python: Path) -> Path:
    """Return the Python of an environment in which taskyard and its tests are installed."""
    home = ROOT / ".venvs" / version
    made_for = f"{ROOT}\n{python}\n".encode() + (ROOT / "pyproject.toml").read_bytes()
    digest = hashlib.sha256(made_for).hexdigest()
    stamp = home / "made-for"
    inside = home / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != digest:
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([python, "-m", "venv", home], check=True)
        install = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--editable", ".[dev]"], cwd=ROOT, check=True)
        stamp.write_text(digest)
    return inside


def test(version: str, python: Path, arguments: list[str]) -> str:
    """Run the suite; say what became of it."""
    print(f"\n=== Python {version}: {python}", flush=True)
    started = time.monotonic()
    try:
        inside = prepare(version, python)
    except subprocess.CalledProcessError as error:
        return f"FAILED (the environment could not be made: {error})"
    status = subprocess.run([inside, "-m", "pytest", *arguments], cwd=ROOT, check=False).returncode
    took = f"{time.monotonic() - started:.0f} s"
    return f"passed ({took})" if status == 0 else f"FAILED (pytest exit {status}, {took})"


def main(arguments: list[str]) -> int:
    outcomes: dict[str, str] = {}
    for version in VERSIONS:
        python = find(version)
        if python is None:
            print(f"Python {version}: not found", flush=True)
            outcomes[version] = "not found"
        else:
            outcomes[version] = test(version, python, arguments)
    print("\n=== Summary")
    for version, outcome in outcomes.items():
        print(f"Python {version}: {outcome}")
    if all(outcome == "not found" for outcome in outcomes.values()):
        return 1
    return int(any(outcome.startswith("FAILED") for outcome in outcomes.values()))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
