"""What a run's options are made of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mandate import settings
from mandate.cli.run import require_008, run_options
from mandate.errors import UsageError


def test_jobs_come_from_the_flag_then_the_settings_then_the_machine(tmp_path: Path) -> None:
    configured = settings.load({"backup.jobs": 3}, directory=tmp_path)
    assert run_options(configured, jobs=5, yes=False).jobs == 5
    assert run_options(configured, jobs=None, yes=False).jobs == 3
    assert run_options(settings.load(directory=tmp_path), jobs=None, yes=True).jobs == os.cpu_count()


@pytest.mark.parametrize("migration", ["", "7", "009", "08", "0008", "008; DROP", "x" * 10_000])
def test_any_other_migration_is_refused_by_name(migration: str) -> None:
    with pytest.raises(UsageError, match="no guarded migration"):
        require_008(migration)
