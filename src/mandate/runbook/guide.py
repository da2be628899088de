"""The steps of the guide, in its order."""

from __future__ import annotations

from mandate.runbook.step import Step
from mandate.runbook.steps import (
    s05_preflight,
    s10_stop,
    s20_backup,
    s30_rehearse,
    s40_precheck,
    s50_migrate,
    s60_verify,
    s70_probe,
    s80_restart,
    s90_smoke,
    s99_record,
)

REHEARSED: tuple[Step, ...] = (s40_precheck.STEP, s50_migrate.STEP, s60_verify.STEP, s70_probe.STEP)
REHEARSE = s30_rehearse.Rehearse(REHEARSED)

STEPS: tuple[Step, ...] = (
    s05_preflight.STEP,
    s10_stop.STEP,
    s20_backup.STEP,
    REHEARSE,
    *REHEARSED,
    s80_restart.STEP,
    s90_smoke.STEP,
    s99_record.STEP,
)
