"""Rollback from a backup: restored beside, compared, and swapped in by name.

Nothing happens to the database in use before the swap, and the swap is one transaction. What was
written since the backup is exported first, and tokens stay as they are; the old database is kept under
another name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from mandate.errors import (
    AwaitingApproval,
    BackupFailed,
    DatabaseError,
    LockNotAvailable,
    NeedsPerson,
    WriterConnected,
)
from mandate.postgres import database, dump
from mandate.postgres.connection import Row, Session, Target
from mandate.postgres.database import Mark
from mandate.rekey.fingerprint import Fingerprint
from mandate.runbook import backup, manifest, migrations, space, tokens_kept, writers, written_since
from mandate.runbook import scratch as scratches
from mandate.runbook.manifest import Description
from mandate.runbook.scratch import Expected, Work
from mandate.runbook.step import Context
from mandate.runbook.written_since import Loss

_IN_USE = "55006"
_CLOSING_SECONDS = 5.0
_POLL_SECONDS = 0.05
# The journal goes on, and tokens stay what they are.
_NOT_OF_THE_BACKUP = ("mandate_conductor.", f"{tokens_kept.SCHEMA}.")


@dataclass(frozen=True)
class Rollback:
    """What to roll back to, who decides, and what must be let go of.

    `approve` is asked once, after everything was counted and exported, while nobody can write; False
    stops with AwaitingApproval. `release` closes the caller's own sessions on the database, which
    would prevent the swap. `ignore`: applications whose sessions are not taken for writers at the start.
    """

    work: Work
    archive: Path
    approve: Callable[[Loss], bool]
    manifest: Path | None = None
    release: Callable[[], None] = lambda: None
    ignore: Sequence[str] = ()

    @property
    def beside(self) -> str:
        """The database that the backup is restored into."""
        return database.derived_name(self.name, "_restored_" + scratches.identifier(self.work.run_id))

    @property
    def kept(self) -> str:
        """What the database in use is called afterwards."""
        return database.derived_name(self.name, "_before_rollback_" + scratches.identifier(self.work.run_id))

    @property
    def name(self) -> str:
        """The database that is rolled back."""
        return self.work.target.database


def rollback_from_backup(rollback: Rollback) -> dict[str, Any]:
    """Roll the database back; the evidence, see runbook.record.

    Safe to call again after a crash at any point, with the same run id: it goes on. Raises BackupFailed,
    WriterConnected, AwaitingApproval or NeedsPerson; the database in use is then as it was.
    """
    started = monotonic()
    work = rollback.work
    reopen(work.target)
    description = backup.verify(rollback.archive, rollback.manifest, reporter=work.reporter)
    with work.maintenance() as keeper:
        if not scratches.try_claim(keeper, rollback.beside):
            raise NeedsPerson(f"another rollback of {rollback.name} is under way", hint="wait for it")
        loss = _earlier(rollback, keeper)
        if loss is None:
            _restore_beside(rollback, keeper, description)
            loss = _swap_when_approved(rollback, keeper)
    found = _verify(rollback, description)
    return {
        "database_before": rollback.name,
        "database_kept": rollback.kept,
        "backup": str(rollback.archive),
        "written_since": dict(loss.rows),
        "returning": dict(loss.returning),
        "export": str(loss.export),
        "schema_version": description.schema_version,
        "tables": [
            {"table": table, "rows": each.rows, "fingerprint": str(each)} for table, each in found.items()
        ],
        "seconds": round(monotonic() - started, 3),
        "notified": [],
    }


def scratch(context: Context, evidence: Mapping[str, Any]) -> Target:
    """The scratch database of the backup step as the backup has it: kept from then, or restored again.

    Raises BackupFailed.
    """
    work = Work.of(context)
    name = str(evidence["scratch_database"])
    with work.maintenance() as keeper:
        mark = database.marks(keeper).get(name)
        fresh = mark is not None and mark.state == scratches.PROVEN
    if not fresh:
        archive = context.directory / str(evidence["file"])
        description = backup.verify(archive, _manifest(context), reporter=work.reporter)
        _restore(work, archive, description, name, scratches.SCRATCH)
    with work.maintenance() as keeper:
        database.set_mark(keeper, name, Mark(scratches.SCRATCH, work.run_id, context.target.database, "used"))
    return context.target.with_database(name)


def rollback_rehearsed(context: Context, target: Target, archive: Path) -> dict[str, Any]:
    """Roll the scratch database back the way the real one would be, and drop what is kept of it.

    `archive` is relative to the run's directory. The evidence is that of rollback_from_backup.
    """
    directory = context.directory / "rehearsal"
    work = replace(Work.of(context), target=target, directory=directory)
    rollback = Rollback(work, context.directory / archive, lambda _: True, _manifest(context))
    evidence = rollback_from_backup(rollback)
    with work.maintenance() as keeper:
        database.drop(keeper, rollback.kept)
    return evidence


def _manifest(context: Context) -> Path:
    return context.directory / manifest.NAME


def reopen(target: Target) -> None:
    """Let sessions in again after a rollback that was killed between closing the door and the swap.

    Needed before anything else can connect to the target; does nothing when no rollback died there.
    """
    with database.maintenance(target) as keeper:
        for name, mark in database.marks(keeper).items():
            ours = (mark.purpose, mark.database) == (scratches.RESTORED, target.database)
            if ours and scratches.try_claim(keeper, name):
                database.allow_connections(keeper, target.database, True)


def _earlier(rollback: Rollback, keeper: Session) -> Loss | None:
    """What an earlier attempt of this run found, when it had come as far as the swap."""
    if not _swapped(rollback, keeper):
        return None
    found = written_since.load(rollback.work.directory)
    if found is None:
        raise NeedsPerson(
            f"{rollback.name} was rolled back, but the record of what was written since is not in"
            f" {rollback.work.directory}",
            hint=f"the rows are in database {rollback.kept}",
        )
    return found


def _swapped(rollback: Rollback, keeper: Session) -> bool:
    mark = database.marks(keeper).get(rollback.kept)
    return mark is not None and (mark.purpose, mark.run_id) == (
        scratches.BEFORE_ROLLBACK,
        rollback.work.run_id,
    )


def _restore_beside(rollback: Rollback, keeper: Session, description: Description) -> None:
    """The backup as a database beside the one in use, unless an earlier attempt has made it."""
    work = rollback.work
    with work.session() as session:
        _refuse_writers(rollback, session)
        mark = database.marks(keeper).get(rollback.beside)
        if mark == Mark(scratches.RESTORED, work.run_id, rollback.name, scratches.PROVEN):
            return
        space.require(space.for_database(session, work.target, "the restored database"))
    _restore(work, rollback.archive.resolve(), description, rollback.beside, scratches.RESTORED)
    with work.session(rollback.beside) as session, work.reporter.task("analyze"):
        session.execute("ANALYZE")


def _restore(work: Work, archive: Path, description: Description, name: str, purpose: str) -> None:
    expected = Expected(_fingerprints(description), description.properties, description.database_bytes)
    scratches.restore(
        work, dump.client(description.server_version // 10000), archive, name, purpose, expected
    )


def _fingerprints(description: Description) -> dict[str, Fingerprint]:
    return {table: Fingerprint.parse(text) for table, text in description.tables.items()}


def _swap_when_approved(rollback: Rollback, keeper: Session) -> Loss:
    """From the moment when rows are counted until the swap nobody can write."""
    work = rollback.work
    try:
        with (
            work.session() as current,
            work.session(rollback.beside) as restored,
            current.transaction(),
            restored.transaction(),
        ):
            _lock(rollback, current)
            loss = written_since.export(current, restored, work.directory, work.reporter)
            if not rollback.approve(loss):
                raise AwaitingApproval(
                    f"the rollback of {rollback.name} was not approved: nothing was changed",
                    hint=f"what was written since the backup is exported in {loss.export}",
                )
            tokens = tokens_kept.save(current, work.target, work.directory)
            rollback.release()
            database.allow_connections(keeper, rollback.name, False)
            _refuse_clients(rollback, keeper, current.pid)
        if tokens is not None:
            tokens_kept.put(tokens, keeper.server_version, work.target.with_database(rollback.beside))
        _swap(rollback, keeper)
    except BaseException:
        _open_again(rollback)
        raise
    return loss


def _open_again(rollback: Rollback) -> None:
    # With the server away there is nobody to ask: the next attempt opens the door, see reopen.
    with suppress(DatabaseError), rollback.work.maintenance() as keeper:
        if not _swapped(rollback, keeper):
            database.allow_connections(keeper, rollback.name, True)


def _lock(rollback: Rollback, current: Session) -> None:
    try:
        with current.transaction():
            written_since.lock(current)
    except LockNotAvailable as error:
        _refuse_writers(rollback, current)
        raise WriterConnected(
            f"somebody is writing to {rollback.name}: {error.message}", hint="stop the services"
        ) from error


def _refuse_writers(rollback: Rollback, session: Session) -> None:
    found = writers.wait_until_gone(session, rollback.work.application_name, rollback.ignore)
    if found:
        raise writers.refusal(found, sees_all=writers.sees_everything(session))


def _refuse_clients(rollback: Rollback, keeper: Session, own: int) -> None:
    """Whoever is there after a moment: connections that were closed, this run's too, need it to be gone."""
    deadline = monotonic() + _CLOSING_SECONDS
    while (others := _others(rollback, keeper, own)) and monotonic() < deadline:
        sleep(_POLL_SECONDS)
    if others:
        lines = [
            f"  pid {one['pid']}: user {one['user']} {one['application']!r} from {one['address']}"
            for one in others
        ]
        raise WriterConnected(
            "\n".join([f"still connected to {rollback.name}, which therefore cannot be renamed:", *lines]),
            hint="end them, then run the same command again: it goes on from here",
            clients=others,
        )


def _others(rollback: Rollback, keeper: Session, own: int) -> list[Row]:
    return [client for client in database.clients(keeper, rollback.name) if client["pid"] != own]


def _swap(rollback: Rollback, keeper: Session) -> None:
    """One transaction: the name belongs to one database or the other, never to none."""
    comment = database.properties(keeper, rollback.name)["comment"]
    kept = Mark(scratches.BEFORE_ROLLBACK, rollback.work.run_id, rollback.name)
    try:
        with keeper.transaction():
            database.rename(keeper, rollback.name, rollback.kept)
            database.rename(keeper, rollback.beside, rollback.name)
            database.set_comment(keeper, rollback.name, comment)
            database.set_mark(keeper, rollback.kept, kept)
            database.allow_connections(keeper, rollback.kept, True)
    except DatabaseError as error:
        if error.sqlstate == _IN_USE:
            raise WriterConnected(error.message, hint="end them, then run the same command again") from error
        if not _committed(rollback):
            raise


def _committed(rollback: Rollback) -> bool:
    """Whether a swap whose answer was lost took place; asked over a new connection."""
    with rollback.work.maintenance() as fresh:
        return _swapped(rollback, fresh)


def _verify(rollback: Rollback, description: Description) -> dict[str, Fingerprint]:
    """What is in use now is the backup: its version, and every row of every table but the journal's."""
    work = rollback.work
    with work.session() as session, work.helpers() as helpers:
        version = migrations.schema_version(session)
        found = scratches.measure(session, helpers, work.reporter, "verify after the swap")
    expected = _of_the_backup(_fingerprints(description))
    try:
        if version != description.schema_version:
            raise BackupFailed(f"it is at version {version} instead of {description.schema_version}")
        scratches.require_equal(expected, _of_the_backup(found))
    except BackupFailed as error:
        raise NeedsPerson(
            f"{rollback.name} was rolled back, but it is not what was backed up: {error.message}",
            hint=f"did a service write already? the database before is kept as {rollback.kept}",
        ) from error
    return expected


def _of_the_backup(found: Mapping[str, Fingerprint]) -> dict[str, Fingerprint]:
    return {table: each for table, each in found.items() if not table.startswith(_NOT_OF_THE_BACKUP)}
