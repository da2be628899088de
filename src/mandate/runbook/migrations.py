"""The migration files, which of them a database has seen, and bringing a fresh database to a version.

Versions from GUARDED_FROM on change existing data: a database that holds decisions gets those from
`mandate run`, which backs up, rehearses and proves, never from here.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import mandate
from mandate.errors import (
    DatabaseError,
    DatabaseUnavailable,
    EditedMigration,
    MandateError,
    MigrationFailed,
    NeedsPerson,
    NotMandate,
    OutcomeUnknown,
    UnsupportedServer,
    UsageError,
)
from mandate.postgres import lock, provision, script
from mandate.postgres.connection import Session, Target, connect
from mandate.postgres.script import Statement
from mandate.progress import Reporter, Silent
from mandate.settings import migrations_override

OLDEST_SERVER = 140000
GUARDED_FROM = 8
# The newest version that the control plane answers on: what a fresh database gets.
SERVED = 8
EXAMPLES = frozenset({3, 4, 6})
LOCK_WAIT_SECONDS = 120.0

_FILE_NAME = re.compile(r"(\d{3})_[a-z0-9_]+\.sql")
_SQL = Path(__file__).parent / "sql"
_EVENT_TABLES = ("scopes", "policy_snapshots", "decision_events", "verdict_events", "audit_timeline_entries")


@dataclass(frozen=True)
class MigrationFile:
    """One numbered file of migrations/."""

    version: int
    path: Path
    sha256: str


@dataclass(frozen=True)
class Applied:
    """One row of mandate_conductor.applied_migrations; without sha256 it was found, not applied."""

    version: int
    filename: str
    sha256: str | None
    applied_at: datetime
    applied_by: str


@dataclass(frozen=True)
class InitResult:
    """What `init` found and did. `applied` is (file name, seconds) in order."""

    database: str
    created: bool
    version_before: int
    version_after: int
    adopted: bool = False
    applied: tuple[tuple[str, float], ...] = ()
    left_out: tuple[str, ...] = field(default=())


def directory() -> Path:
    """Where the files are: MANDATE_MIGRATIONS_DIR, else in the package, else in the checkout."""
    package = Path(mandate.__file__).parent
    override = migrations_override()
    places = [override] if override else [package / "migrations", package.parents[1] / "migrations"]
    for place in places:
        if place.is_dir():
            return place
    raise UsageError(
        f"there is no directory of migrations at {places[-1]}",
        hint="unset MANDATE_MIGRATIONS_DIR, or install mandate again",
    )


def files() -> list[MigrationFile]:
    """All numbered files, by version. Raises UsageError when a number is missing or used twice."""
    place = directory()
    found = [
        MigrationFile(int(match[1]), path, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(place.iterdir())
        if (match := _FILE_NAME.fullmatch(path.name))
    ]
    versions = [file.version for file in found]
    if not versions or versions != list(range(1, len(versions) + 1)):
        numbers = ", ".join(f"{version:03}" for version in versions) or "none"
        raise UsageError(f"{place} must hold migrations 001, 002, ... each once; it has {numbers}")
    return found


def of_version(version: int) -> MigrationFile:
    """The file that leads to a version. Raises UsageError when there is none."""
    found = next((file for file in files() if file.version == version), None)
    if found is None:
        raise UsageError(f"{directory()} has no migration {version:03}")
    return found


def version_of_shape(columns: Mapping[tuple[str, str], str]) -> int | None:
    """The version that a schema's columns, (table, column) -> type, amount to; None when to none.

    3, 4 and 6 only add rows, so 2 may be 2..4 and 5 may be 5 or 6.
    """
    has = columns.__contains__
    if has(("domains", "domain")) and has(("identity_map", "new_key")):
        natural = all(has((table, "domain")) and not has((table, "domain_id")) for table in _EVENT_TABLES)
        whole = natural and not has(("domains", "domain_id")) and columns[("scopes", "scope_id")] == "text"
        if not whole:
            return None
        tenant = has(("spec_events", "spec_id")), has(("decision_events", "received_at"))
        return 9 if all(tenant) else None if any(tenant) else 8
    if not all(has((table, "created_at")) for table in _EVENT_TABLES):
        return None
    if not has(("domains", "domain_id")):
        return 1 if not has(("scopes", "domain_id")) else None
    if not all(has((table, "domain_id")) for table in _EVENT_TABLES):
        return None
    if not has(("mandate_specs", "spec_id")):
        return 2
    return 7 if columns.get(("verdict_events", "scope_id")) == "uuid" else 5


def schema_version(session: Session) -> int | None:
    """The version that the catalogue shows: 7, 8, ...; 0 for an empty database, None for not Mandate's."""
    if session.value("SELECT to_regnamespace('mandate') IS NULL"):
        return None if session.rows((_SQL / "other_tables.sql").read_bytes()) else 0
    rows = session.rows((_SQL / "shape.sql").read_bytes())
    return version_of_shape({(row["table"], row["column"]): row["type"] for row in rows})


def require_version(session: Session) -> int:
    """The schema's version. Raises NotMandate for a database that is empty or somebody else's."""
    version = schema_version(session)
    name = session.value("SELECT current_database()")
    if version == 0:
        raise NotMandate(
            f"database {name} is empty: it has no schema mandate",
            hint="check --dsn; `mandate db init` makes a fresh Mandate database",
        )
    if version is None:
        raise NotMandate(f"database {name} is not a Mandate database {_why(session)}", hint="check --dsn")
    return version


def require_supported(session: Session) -> None:
    """Raise UnsupportedServer for PostgreSQL older than 14."""
    refuse_old_server(session.server_version)


def refuse_old_server(version: int) -> None:
    """The same for a version number such as 130004."""
    if version < OLDEST_SERVER:
        raise UnsupportedServer(
            f"PostgreSQL {version // 10000} is not supported: 14 or newer is needed",
            hint="upgrade the server first",
            server_version=version,
        )


def applied(session: Session) -> list[Applied]:
    """What was recorded for this database, by version; empty when nothing ever was."""
    if session.value("SELECT to_regclass('mandate_conductor.applied_migrations') IS NULL"):
        return []
    rows = session.rows(
        "SELECT version, filename, sha256, applied_at, applied_by"
        " FROM mandate_conductor.applied_migrations ORDER BY version"
    )
    return [Applied(**row) for row in rows]


def verify_unedited(session: Session) -> None:
    """Raise EditedMigration when a file differs from the one that was applied to this database."""
    _verify(applied(session), files())


def _verify(seen: Sequence[Applied], have: Sequence[MigrationFile]) -> None:
    by_version = {file.version: file for file in have}
    for row in seen:
        file = by_version.get(row.version)
        if row.sha256 is None or (file and file.sha256 == row.sha256):
            continue
        raise _edited(row, row.sha256, file)


def _edited(row: Applied, recorded: str, file: MigrationFile | None) -> EditedMigration:
    when = f"{row.applied_at:%Y-%m-%d}"
    if file is None:
        message = f"{row.filename}, applied on {when}, is not in {directory()}"
    else:
        message = (
            f"{file.path.name} was edited after it was applied on {when}:"
            f" applied sha256 {recorded[:12]}, now {file.sha256[:12]}"
        )
    return EditedMigration(
        message,
        hint="put the applied file back; a change to the schema is a new migration with the next number"
        if file
        else "use the version of mandate that applied it, or a newer one",
        file=row.filename,
        applied_sha256=recorded,
        sha256=file.sha256 if file else None,
    )


def record(session: Session, version: int, filename: str, sha256: str | None) -> None:
    """Record a version as applied, inside the caller's transaction when there is one."""
    session.execute((_SQL / "applied_migrations.sql").read_bytes())
    session.execute(
        "INSERT INTO mandate_conductor.applied_migrations (version, filename, sha256) VALUES (%s, %s, %s)"
        " ON CONFLICT (version) DO UPDATE SET filename = excluded.filename, sha256 = excluded.sha256,"
        " applied_at = excluded.applied_at, applied_by = excluded.applied_by",
        (version, filename, sha256),
    )


def forget(session: Session, version: int) -> None:
    """Forget this version and what came after it: a rollback took them out of the schema."""
    if applied(session):
        session.execute("DELETE FROM mandate_conductor.applied_migrations WHERE version >= %s", (version,))


def newest() -> int:
    """What a fresh database gets: the newest version that the control plane answers on."""
    return min(SERVED, files()[-1].version)


def parse_version(text: str) -> int | None:
    """`7` or `007` to a version, `newest` to None. Raises UsageError."""
    last = files()[-1].version
    if text == "newest":
        return None
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= last:
        raise UsageError(
            f"--to {text[:20]!r} is not a version",
            hint=f"give 001 to {last:03}, or leave it out for {newest():03}",
        )
    return int(text)


def init(
    target: Target, *, to: int | None = None, examples: bool = True, reporter: Reporter | None = None
) -> InitResult:
    """Create the database when it is missing and bring it to version `to` (`newest()`, or where it is).

    Idempotent. Each file is one transaction together with its row in applied_migrations. Raises
    EditedMigration, NotMandate, UnsupportedServer, RunLocked, UsageError (asked to go down),
    NeedsPerson (guarded migration of a database that holds decisions), MigrationFailed.
    """
    have = files()
    created = provision.create_if_missing(target)
    with lock.held(target, "mandate db init", wait_seconds=LOCK_WAIT_SECONDS) as session:
        require_supported(session)
        _verify(applied(session), have)
        before, adopted = _current(session)
        wanted = to or max(newest(), before)
        _refuse_down(before, wanted)
        pending = [file for file in have if before < file.version <= wanted]
        chosen = [file for file in pending if examples or file.version not in EXAMPLES]
        _refuse_guarded(session, before, chosen)
        done = _apply_all(target, chosen, reporter or Silent())
    return InitResult(
        target.database,
        created,
        before,
        max([before, *(file.version for file in chosen)]),
        adopted,
        done,
        tuple(file.path.name for file in pending if file not in chosen),
    )


def _current(session: Session) -> tuple[int, bool]:
    """Version in place, and whether it had to be adopted: recorded now because nobody had."""
    shape = schema_version(session)
    if shape is None:
        raise NotMandate(
            f"database {session.value('SELECT current_database()')} is not Mandate's {_why(session)};"
            " it was left untouched",
            hint="use a database of its own: mandate db init --dsn postgresql://.../mandate",
        )
    recorded = max((row.version for row in applied(session)), default=0)
    if _agree(recorded, shape):
        return recorded, False
    if recorded > shape:
        raise NotMandate(
            f"the record of applied migrations says version {recorded}, the schema is version {shape}",
            hint="was a backup restored over it? mandate_conductor.applied_migrations tells what was applied",
        )
    if shape < GUARDED_FROM - 1:
        raise NotMandate(
            f"the schema is an unfinished version {shape} that `mandate db init` did not make",
            hint="finish it by hand up to 007, or start in a fresh database",
        )
    with session.transaction():
        record(session, shape, "(found in place)", None)
    return shape, True


def _agree(recorded: int, shape: int) -> bool:
    """Versions 3, 4 and 6 leave the shape of 2 and 5."""
    return recorded == shape or {3: 2, 4: 2, 6: 5}.get(recorded) == shape


def _why(session: Session) -> str:
    if session.value("SELECT to_regnamespace('mandate') IS NULL"):
        names = ", ".join(row["name"] for row in session.rows((_SQL / "other_tables.sql").read_bytes()))
        return f"(no schema mandate, but tables such as {names})"
    return "(it has a schema mandate whose tables are of no version that this release knows)"


def _refuse_down(current: int, wanted: int) -> None:
    if wanted < current:
        raise UsageError(
            f"the database is at version {current}; `db init` never goes down to {wanted}",
            hint=f"`mandate rollback {current:03}` undoes a migration; or use a fresh database",
            version=current,
        )


def _refuse_guarded(session: Session, current: int, chosen: Sequence[MigrationFile]) -> None:
    guarded = next((file for file in chosen if file.version >= GUARDED_FROM), None)
    if guarded is None or current == 0:
        return
    if session.value("SELECT EXISTS (SELECT FROM mandate.decision_events)"):
        raise NeedsPerson(
            f"the database is at version {current} and holds decisions:"
            f" migration {guarded.version:03} changes them and needs a backup and proof",
            hint=f"mandate run {guarded.version:03}   (to stay at this version: --to {current:03})",
            version=current,
        )


def _apply_all(
    target: Target, chosen: Sequence[MigrationFile], reporter: Reporter
) -> tuple[tuple[str, float], ...]:
    done = []
    with reporter.task("applying migrations", total=len(chosen) or None, unit="files") as task:
        for count, file in enumerate(chosen, start=1):
            started = time.monotonic()
            _apply(target, file)
            done.append((file.path.name, time.monotonic() - started))
            task.update(count, note=file.path.name)
    return tuple(done)


def _apply(target: Target, file: MigrationFile) -> None:
    """Run one file as psql would: in a session of its own, statement by statement."""
    statements = [part for part in script.read(file.path) if isinstance(part, Statement)]
    if sum(script.commits(statement) for statement in statements) != 1:
        raise MandateError(f"{file.path.name} must hold one BEGIN ... COMMIT")
    with connect(target, application_name="mandate db init") as session:
        for statement in statements:
            _execute(session, file, statement)


def _execute(session: Session, file: MigrationFile, statement: Statement) -> None:
    last = script.commits(statement)
    try:
        if last:
            record(session, file.version, file.path.name, file.sha256)
        session.execute(statement.sql.encode())
    except DatabaseUnavailable as error:
        if last:
            raise OutcomeUnknown(
                f"the connection was lost while {file.path.name} committed: {error.message}",
                hint="run `mandate db init` again: it looks at what is there",
            ) from error
        raise
    except DatabaseError as error:
        with suppress(DatabaseError):
            session.execute("ROLLBACK")
        raise MigrationFailed(
            f"{file.path.name}:{statement.line}: {error.message}",
            hint=error.hint or "nothing of this file was kept; mend the cause and run it again",
            file=file.path.name,
            line=statement.line,
            **error.fields,
        ) from error
