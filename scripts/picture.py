"""Photograph a page, for the documentation: `python scripts/picture.py stress.html report.png`.

It takes the browser that the tests use (`make browser`), and keeps the file small.
"""

from __future__ import annotations

import argparse
import sys
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image
from tests.servers.browser import find_browser, launched

WIDTH = 1120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--height", type=int, help="from the top; all of it if left out")
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    given = parser.parse_args()
    with launched(find_browser()) as browser:
        size = {"width": WIDTH, "height": given.height or 800}
        page = browser.new_page(viewport=size, color_scheme=given.scheme)
        page.goto(given.page.resolve().as_uri())
        taken = page.screenshot(full_page=given.height is None)
    with Image.open(BytesIO(taken)) as image:
        image.convert("RGB").quantize(128).save(given.picture, optimize=True)
    print(f"{given.picture}: {given.picture.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
