"""A rollback in a process of its own, which kills itself at a given point.

Usage: python -m tests.rollback_process DSN ARCHIVE DIRECTORY POINT
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn
from unittest import mock

from tests.backup_work import At, work_on

from mandate.postgres import database
from mandate.postgres.connection import Target
from mandate.runbook import restore
from mandate.runbook.written_since import Loss

# When a task of this label begins.
_LABELS = {"begun": "restore", "restored": "fingerprint", "swapped": "verify"}

POINTS = ("begun", "restored", "asked", "door closed", "swapped")


def die(*_: object) -> NoReturn:
    """As a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit("unreachable")


def main(dsn: str, archive: str, directory: str, point: str) -> None:
    """Roll back until `point`."""

    def approve(_: Loss) -> bool:
        return die() if point == "asked" else True

    work = work_on(Target.from_dsn(dsn), Path(directory), reporter=At(_LABELS.get(point, "never"), die))
    with ExitStack() as stack:
        if point == "door closed":
            stack.enter_context(mock.patch.object(database, "rename", die))
        restore.rollback_from_backup(restore.Rollback(work, Path(archive), approve))


if __name__ == "__main__":
    main(*sys.argv[1:])
