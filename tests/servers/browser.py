"""Where the browser of the tests comes from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from tests.servers.binaries import SERVERS, NotInstalled

__all__ = ["find_browser", "launched", "required_browser"]

_ON_PATH = ("chromium-headless-shell", "chromium", "google-chrome", "google-chrome-stable")

# It runs our own pages, as root in CI too, and is to ask for nothing by itself.
_OPTIONS = ["--disable-gpu", "--disable-quic", "--no-sandbox", "--disable-background-networking"]


def find_browser() -> Path:
    """A Chromium: the one that TASKYARD_BROWSER names, or on PATH, or in `.servers/`.

    Raises:
        NotInstalled: there is none.
    """
    named = os.environ.get("TASKYARD_BROWSER")
    if named:
        found = shutil.which(named)
        if found is None:
            raise NotInstalled(f"TASKYARD_BROWSER is {named}, which is no program")
        return Path(found)
    on_path = filter(None, map(shutil.which, _ON_PATH))
    for path in (*map(Path, on_path), SERVERS / "chromium" / "chromium"):
        if path.is_file():
            return path
    raise NotInstalled("no browser here; scripts/install_browser.py gets one")


def required_browser() -> Path:
    """A Chromium. Where there is none the test is skipped, in CI it fails."""
    try:
        return find_browser()
    except NotInstalled as error:
        if os.environ.get("TASKYARD_REQUIRE_SERVERS"):
            pytest.fail(f"{error} (TASKYARD_REQUIRE_SERVERS is set)", pytrace=False)
        pytest.skip(str(error))


@contextmanager
def launched(path: Path) -> Iterator[Browser]:
    """Start a browser, without a window. Meanwhile this thread can run no event loop."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=_OPTIONS)
        try:
            yield browser
        finally:
            browser.close()
