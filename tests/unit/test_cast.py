"""The README's picture holds what a terminal would show at the end."""

from __future__ import annotations

import subprocess
import sys

import pytest
from scripts import cast


def test_erased_progress_is_gone_and_the_rest_stays() -> None:
    written = "one\r\n\r\x1b[2K 10 %\r\x1b[2K 20 %\r\n\r\x1b[1A\x1b[2K\x1b[1mtwo\x1b[0m\r\n"
    assert cast.settled(written) == "one\n\x1b[1mtwo\x1b[0m"


def test_picture_loads_nothing_and_escapes_what_was_printed() -> None:
    picture = cast.draw(["mandate", "demo"], "\x1b[1m<script>&\x1b[0m")
    assert "&lt;script&gt;&amp;" in picture
    assert "url(" not in picture.replace("url(#", "")
    assert "@font-face" not in picture


def test_a_failing_command_leaves_no_picture() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        cast.record([sys.executable, "-c", "print(1); raise SystemExit(3)"])


def test_command_sees_a_terminal() -> None:
    assert "True" in cast.record([sys.executable, "-c", "import sys; print(sys.stdout.isatty())"])
