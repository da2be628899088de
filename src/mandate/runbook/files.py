"""Which files of migrations/ belong to 008."""

from __future__ import annotations

from pathlib import Path

from mandate.runbook import migrations


def pre_checks() -> Path:
    """Step 4 of the guide."""
    return migrations.directory() / "008_PRE_MIGRATION_CHECKS.sql"


def migration() -> Path:
    """Step 5 of the guide."""
    return migrations.directory() / "008_rfc002_domain_identity_migration.sql"


def verification() -> Path:
    """Step 6 of the guide."""
    return migrations.directory() / "008_POST_MIGRATION_VERIFICATION.sql"


def fixes() -> Path:
    """One file per check whose data can be repaired."""
    return migrations.directory() / "fixes"
