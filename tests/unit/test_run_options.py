"""What a run's options are made of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mandate import settings
from mandate.cli.app import build
from mandate.cli.run import run_options
from mandate.errors import UsageError
from mandate.runbook import guarded


def test_jobs_come_from_the_flag_then_the_settings_then_the_machine(tmp_path: Path) -> None:
    configured = settings.load({"backup.jobs": 3}, directory=tmp_path)
    assert run_options(configured, jobs=5, yes=False).jobs == 5
    assert run_options(configured, jobs=None, yes=False).jobs == 3
    assert run_options(settings.load(directory=tmp_path), jobs=None, yes=True).jobs == os.cpu_count()


@pytest.mark.parametrize("migration", ["", "7", "010", "08", "0009", "-9", "009; DROP", "x" * 10_000])
def test_any_other_migration_is_refused_and_those_that_exist_are_named(migration: str) -> None:
    with pytest.raises(UsageError, match="no guarded migration") as refused:
        guarded.find(migration)
    assert "008 and 009" in str(refused.value.hint)
    assert len(refused.value.message) < 80


def test_a_migration_is_named_with_or_without_its_zeros() -> None:
    assert guarded.find("9") is guarded.find("009")
    assert guarded.find("009").after is guarded.find("008")


def test_help_breaks_its_lines_where_the_terminal_ends() -> None:
    tree = typer.main.get_command(build())
    assert isinstance(tree, typer.core.TyperGroup)
    for name, command in _commands(tree):
        broken = [part for part in (command.help or "").split("\n\n") if "\n" in part]
        assert broken == [], f"{name}: a line of the source ends in the middle of a paragraph"


def _commands(group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield name, command
        if hasattr(command, "commands"):
            yield from _commands(command)
