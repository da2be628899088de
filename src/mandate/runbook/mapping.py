"""The reviewed names of domains: 008.toml -> the table that the SQL files of 008 read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mandate.errors import SettingsError
from mandate.postgres.connection import Session
from mandate.runbook import migrations
from mandate.settings import Settings

FILE_NAME = "008.toml"
_TABLE = """
CREATE SCHEMA IF NOT EXISTS mandate_conductor;
CREATE TABLE IF NOT EXISTS mandate_conductor.migration_008_domain_names (
    organization_id uuid, old_name text NOT NULL, new_name text NOT NULL
);
"""


@dataclass(frozen=True)
class Mapping008:
    """Old domain name -> new name, and the file that says so."""

    names: Mapping[str, str]
    file: Path | None


def find(settings: Settings) -> Mapping008:
    """The mapping in force: run.mapping, else ./008.toml, else the one that comes with the package."""
    candidates = [settings.run.mapping, Path.cwd() / FILE_NAME, migrations.directory() / FILE_NAME]
    if settings.run.mapping is not None and not settings.run.mapping.is_file():
        raise SettingsError(f"run.mapping: {settings.run.mapping} does not exist")
    path = next((path for path in candidates if path is not None and path.is_file()), None)
    return Mapping008(read(path) if path else {}, path)


def read(path: Path) -> dict[str, str]:
    """The [domains] table of a file. Raises SettingsError naming what is wrong in it."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    domains = document.get("domains", {})
    if not isinstance(domains, dict):
        raise SettingsError(f"{path}: domains is not a table")
    for old, new in domains.items():
        if not isinstance(new, str):
            raise SettingsError(f'{path}: the new name of "{old}" is not a string')
    return dict(domains)


def propose(names: Iterable[str], taken_already: Iterable[str] = ()) -> dict[str, str]:
    """A slug for each name that is not one; a slug that is taken gets -2, -3, ..."""
    proposed: dict[str, str] = {}
    taken = set(taken_already)
    for name in sorted(set(names)):
        base = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") or "domain"
        slug, number = base, 2
        while slug in taken:
            slug, number = f"{base}-{number}", number + 1
        taken.add(slug)
        proposed[name] = slug
    return proposed


def store(session: Session, mapping: Mapping008) -> None:
    """Put the names where the SQL files look for them; what a person put there stays."""
    if not mapping.names:
        return
    with session.transaction():
        session.execute("SELECT pg_advisory_xact_lock(hashtextextended('mandate_conductor.mapping', 0))")
        session.execute(_TABLE)
        for old, new in mapping.names.items():
            session.execute(
                "DELETE FROM mandate_conductor.migration_008_domain_names"
                " WHERE organization_id IS NULL AND old_name = %s",
                (old,),
            )
            session.execute(
                "INSERT INTO mandate_conductor.migration_008_domain_names (old_name, new_name)"
                " VALUES (%s, %s)",
                (old, new),
            )
