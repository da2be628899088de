"""Read the documentation's shell blocks and run them as a reader would paste them.

A bash block is preceded by a comment that says what the tests do with it:

- `<!-- test -->`: run it; it must exit 0. `<!-- test: exit 3 -->`: it must exit 3.
- `<!-- no-test: reason -->`: do not run it.

A fenced block right after `<!-- output -->` holds lines that the block above it must have printed, in that
order, with any others between them. `...` in a line stands for any text; runs of blanks count as one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
_DIRECTIVE = re.compile(r"<!-- (test|no-test|output)(?:: (.+?))? -->")


@dataclass
class Block:
    """One fenced bash block. `exit_code` is meaningful when it is run; `reason` when it is not."""

    line: int
    text: str
    directive: str | None
    exit_code: int = 0
    reason: str = ""
    expected: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """What running a page gave: the exit status of each block that was reached, and its output."""

    statuses: tuple[int, ...]
    outputs: tuple[str, ...]


def paths() -> list[Path]:
    """Every page whose blocks are looked at."""
    named = [
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "bench/README.md", "examples/agents/README.md")
    ]
    return [path for path in named if path.exists()] + sorted((ROOT / "docs").rglob("*.md"))


def blocks(text: str) -> list[Block]:
    """The bash blocks of a page, each with its directive and expected output."""
    found: list[Block] = []
    directive: re.Match[str] | None = None
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        if line.startswith("```"):
            body = list(_body(lines))
            if line[3:].split()[:1] in (["bash"], ["sh"], ["shell"], ["console"]):
                found.append(_block(number, body, directive))
            elif directive and directive[1] == "output" and found:
                found[-1].expected = body
            directive = None
        elif match := _DIRECTIVE.fullmatch(line.strip()):
            directive = match
        elif line.strip():
            directive = None
    return found


def _body(lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    for _, line in lines:
        if line.startswith("```"):
            return
        yield line


def _block(number: int, body: list[str], directive: re.Match[str] | None) -> Block:
    block = Block(number, "\n".join(body) + "\n", directive[1] if directive else None)
    argument = (directive[2] or "") if directive else ""
    if block.directive == "no-test":
        block.reason = argument
    elif exit_code := re.fullmatch(r"exit (\d+)", argument):
        block.exit_code = int(exit_code[1])
    elif argument:
        block.directive = None
    return block


def missing(expected: list[str], output: str) -> str | None:
    """The first expected line that `output` does not have after those before it; None if all are there."""
    lines = iter([" ".join(line.split()) for line in output.splitlines()])
    for wanted in expected:
        text = " ".join(wanted.split())
        if text in ("", "..."):
            continue
        pattern = re.compile(".*".join(re.escape(part) for part in text.split("...")))
        if not any(pattern.fullmatch(line) for line in lines):
            return wanted
    return None


class Sandbox:
    """A directory, a home and free ports of its own, in which the blocks of one page are run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.http_port = free_port()
        work = directory / "work"
        for path in (work, directory / "home", directory / "log"):
            path.mkdir()
        for name in ("migrations", "deploy", "examples"):
            (work / name).symlink_to(ROOT / name)
        self.work = work
        self.environment = self._environment()

    def _environment(self) -> dict[str, str]:
        foreign = ("PG", "MANDATE_", "XDG_", "DATABASE_URL")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        home = self.directory / "home"
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}",
            "HOME": str(home),
            "NO_COLOR": "1",
            "COLUMNS": "80",
            "MANDATE_EMBEDDED__DATA_DIR": str(self.directory / "postgresql"),
            "MANDATE_EMBEDDED__PORT": str(free_port()),
            "MANDATE_SERVE__PORT": str(self.http_port),
            "MANDATE_SERVE__LOG_DIR": str(self.directory / "log"),
            "MANDATE_SMOKE__BASE_URL": f"http://localhost:{self.http_port}",
            "MANDATE_SMOKE__LOG_GLOBS": f'["{self.directory / "log"}/*.log"]',
        }

    def run(self, page: list[Block], *, timeout_seconds: float) -> Result:
        """Run the blocks one after the other in one shell, stopping at the first unexpected status.

        Port 3000, which the pages name, is replaced by a free one.
        """
        script = "".join(self._source(index, block) for index, block in enumerate(page))
        log = self.directory / "output"
        with log.open("wb") as output:
            shell = subprocess.Popen(
                ["bash", "--noprofile", "--norc", "-c", script],
                cwd=self.work,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                shell.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
        return self._result(log.read_text("utf-8", errors="replace"))

    def _source(self, index: int, block: Block) -> str:
        """The block as a sourced file, so that it is the reader's shell that runs it."""
        path = self.directory / f"block-{index}"
        body = re.sub(r"(?<=localhost:)3000\b", str(self.http_port), block.text)
        path.write_text(body, "utf-8")
        strict = "set -e -o pipefail" if block.exit_code == 0 else "set +e -o pipefail"
        return (
            f"trap 'echo \"<<status {index} $?>>\"' EXIT\n{strict}\nsource {shlex.quote(str(path))}\n"
            f'status=$?\nset +e\necho "<<status {index} $status>>"\n'
            f"trap - EXIT\n[ $status -eq {block.exit_code} ] || exit 1\n"
        )

    @staticmethod
    def _result(text: str) -> Result:
        parts = re.split(r"<<status \d+ (\d+)>>\n", text)
        outputs = (*parts[0::2],)
        return Result(tuple(int(status) for status in parts[1::2]), outputs)

    def close(self) -> None:
        """Stop what the page may have left running: the server, then whatever was started in here."""
        subprocess.run(
            ["mandate", "db", "stop"],
            cwd=self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        left = list(self._processes())
        for process in left:
            process.terminate()
        for process in psutil.wait_procs(left, timeout=20)[1]:
            process.kill()

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(self.directory):
                    yield process


def free_port() -> int:
    """A TCP port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def links(text: str) -> list[tuple[str, str]]:
    """(path, fragment) of each relative link or image of a page, code blocks left out."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"`[^`\n]*`", "", prose)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose)
    relative = [target for target in targets if not re.match(r"[a-z]+:", target)]
    return [(path, fragment) for path, _, fragment in (target.partition("#") for target in relative)]


def anchors(text: str) -> set[str]:
    """The fragments that a page's headings can be linked by."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
