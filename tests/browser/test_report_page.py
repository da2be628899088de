"""The page in Chromium: it renders, asks nobody for anything, follows light and dark, and prints.

Pixels are read from the screenshot's own PNG and pages from the PDF, so nothing but the browser is needed.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pytest
from tests import report_records as records

from mandate.runbook.report import html

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DARK, LIGHT = "--blink-settings=preferredColorScheme=0", "--blink-settings=preferredColorScheme=1"


@dataclass(frozen=True)
class Image:
    width: int
    height: int
    rows: list[bytes]
    channels: int

    def pixel(self, x: int, y: int) -> tuple[int, ...]:
        return tuple(self.rows[y][x * self.channels : x * self.channels + 3])

    def colours(self) -> set[tuple[int, ...]]:
        return {self.pixel(x, y) for y in range(0, self.height, 3) for x in range(0, self.width, 3)}


@pytest.fixture
def chromium(tmp_path: Path) -> Browser:
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH; `make test-deps` installs it")
    return Browser(CHROMIUM, tmp_path)


class Browser:
    """Chromium's own command line, a fresh profile each time."""

    def __init__(self, program: str, place: Path) -> None:
        self._program = program
        self._place = place

    def run(self, page: str | Path, *flags: str) -> str:
        address = page.as_uri() if isinstance(page, Path) else page
        command = [
            self._program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={self._place / 'profile'}",
            *flags, address,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def picture(self, page: Path, *flags: str, width: int = 1280, height: int = 1200) -> Image:
        path = self._place / "picture.png"
        self.run(page, f"--screenshot={path}", f"--window-size={width},{height}", *flags)
        return _read_png(path)


def _read_png(path: Path) -> Image:
    raw = path.read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    at, header, packed = 8, b"", b""
    while at < len(raw):
        (length,), kind = struct.unpack(">I", raw[at : at + 4]), raw[at + 4 : at + 8]
        body = raw[at + 8 : at + 8 + length]
        header = body if kind == b"IHDR" else header
        packed += body if kind == b"IDAT" else b""
        at += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    assert depth == 8
    channels = {2: 3, 6: 4}[colour]
    return Image(width, height, _unfilter(zlib.decompress(packed), width * channels, channels), channels)


def _unfilter(data: bytes, stride: int, step: int) -> list[bytes]:
    """Undo PNG's five row filters."""
    rows: list[bytes] = []
    above = bytearray(stride)
    for start in range(0, len(data), stride + 1):
        kind, row = data[start], bytearray(data[start + 1 : start + 1 + stride])
        for at in range(stride) if kind else ():
            left = row[at - step] if at >= step else 0
            corner = above[at - step] if at >= step else 0
            row[at] = (row[at] + _predict(kind, left, above[at], corner)) & 255
        rows.append(bytes(row))
        above = row
    return rows


def _predict(kind: int, left: int, up: int, corner: int) -> int:
    if kind < 4:
        return (0, left, up, (left + up) // 2)[kind]
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))


def _page(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name}.html"
    path.write_text(html.render(records.ALL[name]()), "utf-8")
    return path


def _colour(name: str, *, dark: bool) -> tuple[int, ...]:
    style = (Path(html.__file__).parent / "templates" / "style.css").read_text("utf-8")
    found = re.findall(rf"--{name}: #([0-9a-f]{{6}})", style)
    return tuple(bytes.fromhex(found[1 if dark else 0]))


def test_it_renders_as_written(tmp_path: Path, chromium: Browser) -> None:
    """What the browser makes of it holds the verdict and no element that the hostile text asked for."""
    dom = chromium.run(_page(tmp_path, "failed_check"), "--dump-dom")
    assert "Migration 008 stopped: pre-migration checks failed" in dom
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in dom
    assert "<script" not in dom
    assert dom.rstrip().endswith("</html>")


@pytest.mark.parametrize(("flag", "dark"), [(LIGHT, False), (DARK, True)], ids=["light", "dark"])
def test_it_follows_the_readers_preference(tmp_path: Path, chromium: Browser, flag: str, dark: bool) -> None:
    picture = chromium.picture(_page(tmp_path, "complete"), flag, height=700)
    assert picture.pixel(3, 3) == _colour("page", dark=dark)
    seen = picture.colours()
    for name in ("paper", "good", "ink"):
        assert _colour(name, dark=dark) in seen, name


def test_the_tone_is_that_of_the_verdict(tmp_path: Path, chromium: Browser) -> None:
    seen = chromium.picture(_page(tmp_path, "failed_verification"), LIGHT, height=500).colours()
    assert _colour("bad", dark=False) in seen
    assert _colour("good", dark=False) not in seen


WITHIN = """<script>
addEventListener("load", () => {
  const cut = [...document.querySelectorAll("main *")].filter(e =>
    !e.closest(".wide, .vh, svg") && e.getBoundingClientRect().right > innerWidth + 1);
  const wide = document.documentElement.scrollWidth - innerWidth;
  parent.document.getElementById("found").append(`${name}: wide=${wide} cut=${cut.length};`);
});
</script>"""


def test_nothing_runs_off_the_page(tmp_path: Path, chromium: Browser) -> None:
    """Every state at a phone's, a tablet's and a desk's width, in frames of one page that measures them.

    The measuring script is the test's: the page itself has none and forbids any.
    """
    frames = [
        f'<iframe name="{name}-{width}" width="{width}" height="900" srcdoc="{escape(source)}"></iframe>'
        for name in sorted(records.ALL)
        for source in (_scripted(name, WITHIN),)
        for width in (360, 760, 1280)
    ]
    gallery = tmp_path / "gallery.html"
    gallery.write_text(f"<!doctype html><p id=found></p>{''.join(frames)}", "utf-8")
    dom = chromium.run(gallery, "--dump-dom", "--window-size=1400,900")
    found = dict(re.findall(r"(\w+-\d+): (wide=-?\d+ cut=\d+);", dom[: dom.index("<iframe")]))
    assert len(found) == len(frames)
    assert {name: what for name, what in found.items() if what != "wide=0 cut=0"} == {}


def _scripted(name: str, script: str) -> str:
    source = re.sub(r"<meta http-equiv=.*?>", "", html.render(records.ALL[name]()))
    return source.replace("</body>", script + "</body>")


ASKED = """<script>
addEventListener("load", () => {
  const asked = performance.getEntriesByType("resource").map(entry => entry.name);
  document.body.append(`asked for [${asked.join(" ")}]`);
});
</script>"""


def test_it_asks_nobody_for_anything(tmp_path: Path, chromium: Browser) -> None:
    """The browser's own list of what the page asked for, without the policy that forbids it anyway."""
    page = tmp_path / "asked.html"
    page.write_text(_scripted("complete", ASKED), "utf-8")
    assert "asked for []" in chromium.run(page, "--dump-dom")
    control = _scripted("complete", '<img src="http://127.0.0.1:9/x.png">' + ASKED)
    page.write_text(control, "utf-8")
    assert "asked for [http://127.0.0.1:9/x.png]" in chromium.run(page, "--dump-dom")


def test_it_prints_on_a4(tmp_path: Path, chromium: Browser) -> None:
    path = tmp_path / "report.pdf"
    chromium.run(_page(tmp_path, "complete"), f"--print-to-pdf={path}", "--no-pdf-header-footer", DARK)
    raw = path.read_bytes()
    assert raw.startswith(b"%PDF-")
    sizes = {
        (round(float(width)), round(float(height)))
        for width, height in re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", raw)
    }
    assert len(sizes) == 1
    assert max(abs(width - 595) + abs(height - 842) for width, height in sizes) <= 2
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", raw)) <= 12
