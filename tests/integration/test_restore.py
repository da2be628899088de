"""Rollback from a backup: beside, compared, counted, asked, swapped; and again after a kill at any point."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.backup_work import DECISIONS, dropping_what_is_made, fill, work_on
from tests.posting import ORGANIZATION
from tests.rollback_process import POINTS
from tests.servers import DatabaseFactory
from tests.serving import eventually
from tests.stepping import context

from mandate.controlplane.access import ledger
from mandate.controlplane.access.principal import Role
from mandate.errors import AwaitingApproval, BackupFailed, DatabaseError, LockNotAvailable, WriterConnected
from mandate.postgres import database as databases
from mandate.postgres import programs
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.postgres.embedded import EmbeddedServer
from mandate.progress import Silent
from mandate.runbook import backup, identity, manifest, migrations, restore, scratch, written_since
from mandate.runbook.restore import Rollback
from mandate.runbook.steps import s20_backup
from mandate.runbook.written_since import Loss

ROOT = Path(__file__).resolve().parents[2]
CLOSED = "SELECT NOT datallowconn FROM pg_database WHERE datname = %s"


@dataclass(frozen=True)
class Migrated:
    """A version 8 database that was written to after its version 7 backup."""

    target: Target
    archive: Path
    directory: Path

    def rollback(self, **changes: Any) -> Rollback:
        work = work_on(self.target, self.directory)
        return replace(Rollback(work, self.archive, lambda _: True), **changes)

    def version(self) -> int | None:
        with connect(self.target) as session:
            return migrations.schema_version(session)


def migrate(target: Target) -> None:
    psql = programs.find("psql", 18)
    programs.run([psql, "-X", "-q"], target, stdin=identity.MIGRATION.script)


def write(session: Session) -> None:
    """What is written after the migration: 1 row each in 5 tables, and an update outside the schema."""
    organization = session.value("SELECT organization_id FROM mandate.domains ORDER BY domain LIMIT 1")
    names = {"organization": organization}
    for statement in (
        "INSERT INTO domains (organization_id, domain) VALUES (%(organization)s, 'late')",
        "INSERT INTO scopes (scope_id, domain, organization_id, owning_team)"
        " VALUES ('late.prod', 'late', %(organization)s, 'Team')",
        "INSERT INTO organizations (name) VALUES ('late')",
        "INSERT INTO decision_events (decision_id, intent, stage, actor, target, timestamp, organization_id,"
        " domain) VALUES (md5('late')::uuid, 'i', 'proposed', 'a', 'naïve \"t\"', now(), %(organization)s,"
        " 'late')",
        "UPDATE public.settings SET value = 'changed' WHERE name = 'b'",
    ):
        session.execute(statement.encode(), names)


LATE = {
    "mandate.decision_events": 1,
    "mandate.domains": 1,
    "mandate.organizations": 1,
    "mandate.scopes": 1,
    "public.settings": 1,
}


def prepare(target: Target, directory: Path) -> Migrated:
    fill(target)
    with connect(target) as session:
        session.execute("CREATE TABLE public.settings AS VALUES ('a', 'x'), ('b', 'x')")
        session.execute("ALTER TABLE public.settings RENAME column1 TO name")
        session.execute("ALTER TABLE public.settings RENAME column2 TO value")
        session.execute(
            sql.SQL("COMMENT ON DATABASE {} IS 'the record'").format(sql.Identifier(target.database))
        )
    taken = backup.take(work_on(target, directory), "custom", manifest_name=manifest.NAME)
    with databases.maintenance(target) as session:
        databases.drop(session, taken.copy.name)
    migrate(target)
    with connect(target) as session:
        write(session)
    return Migrated(target, taken.path, directory)


@pytest.fixture
def migrated(database: DatabaseFactory, tmp_path: Path) -> Iterator[Migrated]:
    target = database("v7")
    with dropping_what_is_made(target):
        yield prepare(target, tmp_path)


def lines(loss: Loss, table: str) -> list[dict[str, Any]]:
    with gzip.open(loss.export / f"{table}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_it_goes_back_and_keeps_what_was(
    any_postgres: EmbeddedServer, database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v7", server=any_postgres)
    with dropping_what_is_made(target):
        with connect(target) as session:
            tokens = [ledger.create(session, Role.AUDITOR, ORGANIZATION).token]
        migrated = prepare(target, tmp_path)
        with connect(target) as session:
            tokens.append(ledger.create(session, Role.AGENT, ORGANIZATION).token)
            assert ledger.revoke(session, tokens[0].split("_")[1])
        asked: list[Loss] = []

        def approve(loss: Loss) -> bool:
            asked.append(loss)
            return True

        rollback = migrated.rollback(approve=approve)
        found = restore.rollback_from_backup(rollback)
        assert asked[0].rows == found["written_since"] == LATE
        assert found["returning"] == {"public.settings": 1}
        assert lines(asked[0], "mandate.scopes")[0]["scope_id"] == "late.prod"
        assert lines(asked[0], "mandate.decision_events")[0]["target"] == 'naïve "t"'
        assert lines(asked[0], "public.settings") == [{"name": "b", "value": "changed"}]
        assert migrated.version() == found["schema_version"] == 7
        with connect(target) as session:
            assert session.value("SHOW search_path") == "mandate, public"
            assert session.value("SELECT count(*) FROM verdict_events") == DECISIONS
            # What was revoked since the backup stays revoked, what was made since stays.
            held = {each["token_id"]: each["status"] for each in ledger.listed(session)}
            assert held == {tokens[0].split("_")[1]: "revoked", tokens[1].split("_")[1]: "valid"}
            assert not list(tmp_path.glob("tokens*"))
        with connect(target.with_database(found["database_kept"])) as session:
            assert migrations.schema_version(session) == 8
            assert session.value("SELECT count(*) FROM domains WHERE domain = 'late'") == 1
        with databases.maintenance(target) as session:
            assert databases.properties(session, target.database)["comment"] == "the record"
            assert not databases.exists(session, rollback.beside)
        again = restore.rollback_from_backup(rollback)
        assert again["written_since"] == LATE
        assert len(asked) == 1


def test_without_approval_nothing_changes_and_the_restore_is_kept(migrated: Migrated) -> None:
    with pytest.raises(AwaitingApproval) as caught:
        restore.rollback_from_backup(migrated.rollback(approve=lambda _: False))
    assert caught.value.exit_code == 10
    assert migrated.version() == 8
    with connect(migrated.target) as session:
        ledger.create(session, Role.AGENT, ORGANIZATION)  # the first, which the backup knows nothing of
    rollback = migrated.rollback()
    with databases.maintenance(migrated.target) as session:
        oid = session.value("SELECT oid FROM pg_database WHERE datname = %s", (rollback.beside,))
    restore.rollback_from_backup(rollback)
    with connect(migrated.target) as session:
        now = session.value("SELECT oid FROM pg_database WHERE datname = current_database()")
        assert ledger.exist(session)
    assert now == oid, "restored a second time"


def test_a_writer_that_is_connected_stops_it(migrated: Migrated) -> None:
    with connect(migrated.target, application_name="straggler"):
        with pytest.raises(WriterConnected, match="straggler"):
            restore.rollback_from_backup(migrated.rollback())
        with databases.maintenance(migrated.target) as session:
            assert databases.marks(session) == {}
    assert migrated.version() == 8


def test_nobody_can_write_between_the_count_and_the_swap(migrated: Migrated) -> None:
    def approve(_: Loss) -> bool:
        with (
            connect(migrated.target, settings={"lock_timeout": "100"}) as writer,
            pytest.raises(LockNotAvailable),
        ):
            writer.execute("INSERT INTO organizations (name) VALUES ('too late')")
        return True

    assert restore.rollback_from_backup(migrated.rollback(approve=approve))["written_since"] == LATE


def test_somebody_who_connects_before_the_swap_stops_it(migrated: Migrated) -> None:
    guests: list[Session] = []

    def release() -> None:
        guests.append(connect(migrated.target, application_name="guest"))

    with pytest.raises(WriterConnected, match="guest"):
        restore.rollback_from_backup(migrated.rollback(release=release))
    guests[0].close()
    assert migrated.version() == 8
    restore.rollback_from_backup(migrated.rollback())
    assert migrated.version() == 7


def test_who_leaves_once_the_door_is_closed_does_not_stop_it(migrated: Migrated) -> None:
    threads: list[threading.Thread] = []

    def leave(guest: Session) -> None:
        with guest, databases.maintenance(migrated.target) as keeper:
            eventually(lambda: keeper.value(CLOSED, (migrated.target.database,)) or None)

    def release() -> None:
        guest = connect(migrated.target, application_name="guest")
        threads.append(threading.Thread(target=leave, args=(guest,)))
        threads[0].start()

    restore.rollback_from_backup(migrated.rollback(release=release))
    threads[0].join()
    assert migrated.version() == 7


def test_a_damaged_backup_is_refused_before_anything_is_made(migrated: Migrated) -> None:
    content = migrated.archive.read_bytes()
    migrated.archive.write_bytes(content[:-10])
    with pytest.raises(BackupFailed, match="bytes, the proven one had"):
        restore.rollback_from_backup(migrated.rollback())
    with databases.maintenance(migrated.target) as session:
        assert databases.marks(session) == {}


@pytest.mark.parametrize("point", POINTS)
def test_after_a_kill_at_any_point_it_goes_on(migrated: Migrated, point: str) -> None:
    arguments = [migrated.target.conninfo, migrated.archive, migrated.directory, point]
    died = subprocess.run(
        [sys.executable, "-m", "tests.rollback_process", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    if point == "door closed":
        with pytest.raises(DatabaseError, match="not currently accepting connections"):
            connect(migrated.target)
        restore.reopen(migrated.target)
    assert migrated.version() == (7 if point == "swapped" else 8)
    found = restore.rollback_from_backup(migrated.rollback())
    assert found["written_since"] == LATE
    assert migrated.version() == 7


def test_a_rehearsal_gets_a_clean_scratch_and_rolls_it_back(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v7")
    with dropping_what_is_made(target):
        fill(target)
        run = context(target, tmp_path)
        evidence = s20_backup.STEP.run(run).evidence
        copy = restore.scratch(run, evidence)
        assert copy.database == evidence["scratch_database"]
        migrate(copy)
        found = restore.rollback_rehearsed(run, copy, Path(evidence["file"]))
        assert found["written_since"] == {}
        with connect(copy) as session:
            assert migrations.schema_version(session) == 7
        migrate(copy)
        assert restore.scratch(run, evidence) == copy
        with connect(copy) as session:
            assert migrations.schema_version(session) == 7, "the scratch of a killed rehearsal was used again"
        with databases.maintenance(target) as session:
            assert list(databases.marks(session)) == [copy.database]
            assert databases.marks(session)[copy.database].purpose == scratch.SCRATCH


TABLE = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "é", None])), max_size=12)


@pytest.fixture(scope="module")
def pair(postgres: EmbeddedServer) -> Iterator[tuple[Session, Session]]:
    with connect(postgres.target()) as keeper:
        for name in ("since_current", "since_restored"):
            keeper.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with (
            connect(postgres.target("since_current")) as current,
            connect(postgres.target("since_restored")) as restored,
        ):
            for session in (current, restored):
                session.execute("CREATE TABLE bag (n int, t text)")
            yield current, restored
        for name in ("since_current", "since_restored"):
            keeper.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(ours=TABLE, theirs=TABLE)
def test_exactly_the_rows_that_only_one_has_are_counted_and_exported(
    pair: tuple[Session, Session],
    tmp_path: Path,
    ours: list[tuple[int, str | None]],
    theirs: list[tuple[int, str | None]],
) -> None:
    for session, rows in zip(pair, (ours, theirs), strict=True):
        session.execute("TRUNCATE bag")
        for row in rows:
            session.execute("INSERT INTO bag VALUES (%s, %s)", row)
    current, restored = pair
    with current.transaction(), restored.transaction():
        loss = written_since.export(current, restored, tmp_path, Silent())
    since, returning = Counter(ours) - Counter(theirs), Counter(theirs) - Counter(ours)
    assert loss.rows == ({"public.bag": since.total()} if since else {})
    assert loss.returning == ({"public.bag": returning.total()} if returning else {})
    exported = [(row["n"], row["t"]) for row in lines(loss, "public.bag")] if since else []
    assert Counter(exported) == since
    assert written_since.load(tmp_path) == loss
