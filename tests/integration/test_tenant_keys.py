"""Migration 009 by hand and on the engine: the same schema and rows, version 8 again afterwards."""

from __future__ import annotations

from tests.integration.test_identity import clone
from tests.servers import DatabaseFactory
from tests.sqlfiles import MIGRATIONS, dump, psql

from mandate.postgres.connection import Target, connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.progress import Silent
from mandate.rekey.fingerprint import fingerprint_schema
from mandate.runbook import migrations, tenant_keys

MIGRATION = MIGRATIONS / "009_tenant_keys.sql"
REFERENCE = MIGRATIONS / "reference" / "version_9_schema.sql"


def contents(target: Target) -> dict[str, str]:
    """Fingerprints of the record's tables; the log of migrations has times of its own."""
    with connect(target) as session:
        found = {name: str(each) for name, each in fingerprint_schema(session, ["mandate"]).items()}
    found.pop("mandate.migration_log")
    return found


def by_hand(target: Target) -> str:
    done = psql(target, MIGRATION)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_engine_goes_forward_and_back_as_the_hand_run_file_does(
    any_postgres: EmbeddedServer, database: DatabaseFactory
) -> None:
    target = database("v8-seeded", server=any_postgres)
    other = clone(target, database, any_postgres)
    version_8, rows = dump(target), contents(target)
    by_hand(other)
    assert dump(other) == REFERENCE.read_text("utf-8")
    engine = tenant_keys.engine(target, Silent())

    engine.run()
    assert contents(target) == contents(other)
    engine.rollback()
    assert dump(target) == version_8
    assert contents(target) == rows
    engine.run()
    engine.finalize()
    assert contents(target) == contents(other)
    assert dump(target) == REFERENCE.read_text("utf-8")
    with connect(target) as session:
        assert migrations.schema_version(session) == 9
