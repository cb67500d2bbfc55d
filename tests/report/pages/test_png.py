"""Reports as pictures."""

from __future__ import annotations

import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import matplotlib as mpl
import pytest
from PIL import Image
from tests.report.pages.runs import HOSTILE, a_report, a_run

from taskyard.errors import MissingExtra
from taskyard.report import png
from taskyard.report.png import as_png
from taskyard.report.report import make_report
from taskyard.report.samples import Samples

pytestmark = pytest.mark.timeout(300)  # seconds of computing, which a busy machine makes minutes


def size(picture: bytes) -> tuple[int, int]:
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


def colours(picture: bytes) -> set[tuple[int, ...]]:
    with Image.open(BytesIO(picture)) as image:
        counted = image.convert("RGB").getcolors(1 << 20)
    return {colour for count, colour in counted or () if count > 100}


def test_it_shows_the_charts() -> None:
    picture = as_png(a_report(duration=20))
    width, height = size(picture)
    assert width == 13 * 120
    assert 1000 < height < 1600
    assert len(picture) < 400_000
    # Completed, failed, first and second line: all of them are there.
    wanted = {(0x42, 0x97, 0xD0), (0xA8, 0x32, 0x00), (0x00, 0x67, 0xA8), (0xC0, 0x4E, 0x00)}
    assert wanted <= colours(picture)


def test_what_comes_from_outside_is_text() -> None:
    run = a_run(duration=2)
    odd = f"{HOSTILE} $\\frac{{1}}{{0}}$ 日本語 \N{GRINNING FACE} \\end" * 20
    run.conditions.title = run.conditions.function = run.conditions.plan = odd
    run.kinds = dict.fromkeys(run.kinds, odd)
    run.notes = [odd] * 100
    width, height = size(as_png(make_report(run), dpi=40))
    assert (width, height < 700) == (520, True)


@pytest.mark.parametrize("run", [Samples(), a_run(rate=1, duration=1)])
def test_little_is_a_picture_too(run: Samples) -> None:
    assert size(as_png(make_report(run), dpi=40))[0] == 520


def test_threads_draw_at_the_same_time() -> None:
    report = a_report(duration=5)
    before = dict(mpl.rcParams)
    alone = as_png(report, dpi=50)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: as_png(report, dpi=50), range(4))) == {alone}
    assert dict(mpl.rcParams) == before


def test_pyplot_and_its_backend_are_left_alone() -> None:
    code = (
        "import sys\n"
        "from taskyard.report.png import as_png\n"
        "from taskyard.report.report import make_report\n"
        "from taskyard.report.samples import Samples\n"
        "assert 'matplotlib' not in sys.modules\n"
        "as_png(make_report(Samples()), dpi=20)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"taskyard\[report\]"):
        as_png(a_report(duration=1))


def test_a_kind_of_one_long_word_is_cut_and_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(png, "_text", lambda *given, **_: drawn.append(given[3]))
    run = a_run(duration=2)
    run.kinds = {0: "com.example.checkout." * 10}
    run.success[0] = 0
    as_png(make_report(run))
    assert ("com.example.checkout." * 10)[:59] + "…" in drawn
