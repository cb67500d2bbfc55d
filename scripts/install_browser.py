"""Get the browser that the tests open pages in, without root, into `.servers/`.

    .servers/chromium/chromium   Debian's headless Chromium, unpacked and not installed

It is left out where PATH has a Chromium or Chrome, or TASKYARD_BROWSER names one. What is there
already is left alone, so this may run before every test. It is 100 MB to fetch, once.

Where it cannot be had that is reported; the tests skip what needs it. With
TASKYARD_REQUIRE_SERVERS=1, as CI sets it, the exit status is 1 then.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from installing import NotAvailable, has_apt, install, run, unpack_debian, wrap

PACKAGE = "chromium-headless-shell"
ON_PATH = (PACKAGE, "chromium", "google-chrome", "google-chrome-stable")


def main() -> int:
    try:
        get_chromium()
    except NotAvailable as error:
        print(f"chromium: {error}", file=sys.stderr)
        return 1 if os.environ.get("TASKYARD_REQUIRE_SERVERS") else 0
    return 0


def get_chromium() -> None:
    if os.environ.get("TASKYARD_BROWSER") or any(map(shutil.which, ON_PATH)):
        return
    if not has_apt():
        raise NotAvailable(
            "there is no Chromium on PATH; install it (macOS: brew install chromium) or name one "
            "in TASKYARD_BROWSER"
        )
    install("chromium", PACKAGE, unpack_chromium)


def unpack_chromium(folder: Path) -> None:
    unpack_debian(folder, missing)
    wrap(folder, "chromium", f"usr/lib/chromium/{PACKAGE}")


def missing(options: list[str], folder: Path) -> list[str]:
    """The package, and what it needs that this machine has not."""
    command = ["apt-get", *options, "--simulate", "--no-install-recommends", "install", PACKAGE]
    needed = re.findall(r"^Inst (\S+)", run(command, folder), re.MULTILINE)
    return sorted({PACKAGE, *needed})


if __name__ == "__main__":
    sys.exit(main())
