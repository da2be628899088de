"""Run a command on a terminal of 88 columns and draw what it printed: the picture in the README.

    python -m scripts.cast docs/images/run.svg -- mandate demo

The picture holds the command's real output as it stands at the end, without the progress bars that were
erased.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS = 88


def record(command: list[str]) -> str:
    """What the command writes to a terminal, both streams. Raises CalledProcessError when it fails."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 60, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS)},
    )
    os.close(theirs)
    written = _read(ours)
    if process.wait():
        sys.stderr.buffer.write(written)
        raise subprocess.CalledProcessError(process.returncode, command, output=written)
    return written.decode("utf-8", errors="replace")


def _read(terminal: int) -> bytes:
    chunks: list[bytes] = []
    try:
        while chunk := os.read(terminal, 65536):
            chunks.append(chunk)
    except OSError:  # Linux reports the end of a pseudo-terminal as EIO
        pass
    finally:
        os.close(terminal)
    return b"".join(chunks)


def settled(written: str) -> str:
    """The lines that were left standing, colours kept: cursor movement and erasing are carried out."""
    lines: list[str] = [""]
    row = 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+|\x1b.", written):
        if part == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif part == "\r":
            continue
        elif part == "\x1b[2K":
            lines[row] = ""
        elif match := re.fullmatch(r"\x1b\[(\d*)A", part):
            row = max(0, row - int(match[1] or 1))
        elif part.endswith("m") or not part.startswith("\x1b"):
            lines[row] += part
    return "\n".join(lines).rstrip()


def draw(command: list[str], output: str) -> str:
    """A self-contained SVG; rich's own template would fetch its font from elsewhere."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (shlex.join(command), "bold")))
    console.print(Text.from_ansi(output))
    svg = console.export_svg(title=shlex.join(command), theme=MONOKAI, unique_id="run")
    without_fonts = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return without_fonts.replace("font-family: Fira Code, monospace", "font-family: monospace")


def main() -> None:
    """Arguments: the picture's path, `--`, the command."""
    picture, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        sys.exit(__doc__)
    Path(picture).write_text(draw(command, settled(record(command))), "utf-8")


if __name__ == "__main__":
    main()
