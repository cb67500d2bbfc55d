"""What the scripts that get programs for the tests share: a folder each, and how it is filled."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["SERVERS", "NotAvailable", "has_apt", "install", "run", "unpack_debian", "wrap"]

SERVERS = Path(__file__).resolve().parent.parent / ".servers"
TIMEOUT = 300

# (The folder is found again wherever the checkout is; exec, so that signals reach the program.)
WRAPPER = """#!/bin/sh
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
LD_LIBRARY_PATH="{libraries}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
export LD_LIBRARY_PATH
exec "$here/{binary}" "$@"
"""


class NotAvailable(Exception):
    """A program cannot be had; says why."""


# Each is made beside its place and then moved there, so that it is whole or not there at all.


def install(name: str, recipe: str, make: Callable[[Path], None]) -> None:
    """Have a folder made unless it was made by the same recipe.

    Arguments:
        name: of the folder in `.servers/`.
        recipe: what goes into it.
        make: fills an empty folder.
    """
    place = SERVERS / name
    stamp = place / "recipe"
    if stamp.is_file() and stamp.read_text() == recipe:
        return
    print(f"{name}: getting it into {SERVERS.name}/{name}")
    SERVERS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=SERVERS) as folder:
        made = Path(folder) / name
        made.mkdir()
        make(made)
        (made / "recipe").write_text(recipe)
        if place.exists():
            place.rename(Path(folder) / "old")
        try:
            made.rename(place)
        except OSError:  # another run was faster
            if not stamp.is_file():
                raise


def run(command: list[str], folder: Path) -> str:
    """The output of a command.

    Raises:
        NotAvailable: it failed.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailable(f"{command[0]}: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise NotAvailable(f"{' '.join(command[:3])} failed: {' '.join(lines)}")
    return done.stdout


# Debian and Ubuntu

Wanted = Callable[[list[str], Path], list[str]]


def has_apt() -> bool:
    tools = ("apt-get", "apt-cache", "dpkg", "dpkg-query")
    return all(shutil.which(tool) for tool in tools)


def unpack_debian(folder: Path, wanted: Wanted) -> None:
    """Unpack packages of the distribution into a folder; nothing is installed.

    Arguments:
        folder: takes what they hold.
        wanted: names the packages, given options for apt and a folder to run it in.
    """
    packages = folder / "packages"
    packages.mkdir()
    options: list[str] = []
    try:
        download(options, packages, wanted)
    except NotAvailable:  # no lists, or old ones: fetch some, and leave the system's alone
        (packages / "lists" / "partial").mkdir(parents=True)
        options = ["-o", f"Dir::State::Lists={packages / 'lists'}"]
        options += ["-o", f"Dir::Cache={packages}"]
        run(["apt-get", *options, "-qq", "update"], packages)
        download(options, packages, wanted)
    for package in packages.glob("*.deb"):
        run(["dpkg", "-x", str(package), "."], folder)
    shutil.rmtree(packages)


def download(options: list[str], folder: Path, wanted: Wanted) -> None:
    run(["apt-get", *options, "-qq", "download", *wanted(options, folder)], folder)


def wrap(folder: Path, name: str, binary: str) -> None:
    """Make a script that runs an unpacked program with the libraries beside it, and try it."""
    libraries = {path.parent for path in folder.rglob("*.so*")}
    path = ":".join(sorted(f"$here/{found.relative_to(folder)}" for found in libraries))
    wrapper = folder / name
    wrapper.write_text(WRAPPER.format(libraries=path, binary=binary))
    wrapper.chmod(0o755)
    run([str(wrapper), "--version"], folder)
