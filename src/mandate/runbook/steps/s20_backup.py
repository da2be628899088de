"""Guide step 2: a backup, and the proof that it is one."""

from __future__ import annotations

from dataclasses import dataclass

from mandate.errors import BackupFailed
from mandate.runbook import backup, manifest
from mandate.runbook.scratch import Work
from mandate.runbook.step import Context, Outcome


@dataclass(frozen=True)
class BackupStep:
    name: str = "backup"
    title: str = "Back up, and prove the backup by restoring it"
    guide: str = "2"
    exit_code: int = BackupFailed.exit_code

    def run(self, context: Context) -> Outcome:
        """Back up into the run's directory; the scratch database stays for the rehearsal."""
        taken = backup.take(Work.of(context), context.settings.backup.format, manifest_name=manifest.NAME)
        return Outcome(backup.summary(taken), taken.evidence())


STEP = BackupStep()
