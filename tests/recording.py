"""Stand-ins for programs that cannot run in a test: they log their argv and replay recorded answers."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Started by sh, because a line that begins with #! cannot name a Python whose path has a blank in it.
_PROGRAM = """#!/bin/sh
'''exec' {python} -IS "$0" "$@"
' '''
import json, os, pathlib, sys
place = pathlib.Path({place!r})
line = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
with open(place / "calls", "a") as calls:
    calls.write(line + "\\n")
replies = json.loads((place / "replies.json").read_text())
queue = replies.get(line)
if not queue:
    sys.exit(f"no reply was recorded for: {{line}}")
code, out, err = queue.pop(0) if len(queue) > 1 else queue[0]
(place / "replies.json").write_text(json.dumps(replies))
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""

Reply = tuple[int, str, str]


class Recording:
    """Programs in `directory`, to be put on PATH; `calls` is what they were called with, in order."""

    def __init__(self, directory: Path, programs: Sequence[str]) -> None:
        self.directory = directory / "bin"
        self.directory.mkdir()
        for name in programs:
            program = self.directory / name
            program.write_text(_PROGRAM.format(python=shlex.quote(sys.executable), place=str(self.directory)))
            program.chmod(0o755)

    def replay(self, replies: Mapping[str, Sequence[Reply]]) -> None:
        """By command line: (exit status, stdout, stderr) of each call in turn; the last one repeats."""
        (self.directory / "replies.json").write_text(json.dumps(replies))

    @property
    def calls(self) -> list[str]:
        file = self.directory / "calls"
        return file.read_text().splitlines() if file.exists() else []
