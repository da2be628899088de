"""Reads what a database has to govern by, and writes a plan into it: all of it or nothing.

Version 9's events about specs are appended with the application's name as the actor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any
from uuid import uuid4

from mandate.controlplane.access.about import EVERYTHING
from mandate.controlplane.dialect import SCHEMA_VERSION, VERSIONS, may_be_outdated, spelled
from mandate.controlplane.governance import planning
from mandate.controlplane.governance.documents import Document
from mandate.controlplane.governance.planning import Change, Plan
from mandate.controlplane.governance.source import Defect, InvalidDocument, Source, line
from mandate.controlplane.governance.state import State, Wanted
from mandate.errors import CheckFailed, DatabaseError, LockNotAvailable, NotMandate
from mandate.postgres.connection import Jsonb, Session, Target, connect

CHANNEL = "mandate_changed"
"""NOTIFY channel; the payload is the organization_id of what changed."""

LOCK_SECONDS = 30


def _read(*path: str) -> bytes:
    return files("mandate.controlplane.governance").joinpath("sql", *path).read_bytes()


_TABLES = ("organizations", "domains", "scopes", "specs", "snapshots")
_SELECT = {
    version: {table: spelled(version, _read, f"{table}.sql") for table in _TABLES} for version in VERSIONS
}
_INSERT = {
    kind: _read(f"insert_{kind}.sql") for kind in ("organization", "domain", "scope", "spec", "policies")
}
_INSERT_EVENT = _read("insert_spec_event.sql")
_ONE_PICTURE = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_JSON = ("metadata", "signals", "enforcement", "policies")


class Conflict(CheckFailed):
    """What is declared contradicts what is recorded for ever. `fields["defects"]` has each place."""

    code = "conflict"

    def __init__(self, name: str, conflicts: Sequence[Mapping[str, Any]]) -> None:
        shown = "\n".join(line(conflict) for conflict in conflicts)
        super().__init__(
            f"{name} contradicts what the database has; nothing was changed\n{shown}",
            hint="a spec or a list of policies gets a new version; all else stays as it was recorded",
            defects=list(conflicts),
        )


class NeedsVersion8(CheckFailed):
    """The database's schema is older than what is written here."""

    code = "needs-version-8"


class Changed(CheckFailed):
    """Somebody else wrote between the question and the answer."""

    code = "changed-meanwhile"


class Ids:
    """Ids for what is new: random, and the same each time that the same thing is asked for."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def __call__(self, what: str) -> str:
        return self._ids.setdefault(what, str(uuid4()))


def version_of(session: Session) -> int:
    """7, 8 or 9. Raises NotMandate."""
    version = session.value(SCHEMA_VERSION)
    if version not in _SELECT:
        raise NotMandate(
            "the database has no schema of Mandate that can be governed (version 7, 8 or 9)",
            hint="`mandate db init` makes one",
        )
    return int(version)


def require_writable(session: Session) -> None:
    """Raises NeedsVersion8 on a version 7 database, NotMandate on others."""
    if version_of(session) == 7:
        raise NeedsVersion8(
            "the database has version 7 of the schema, and this is written in the keys of version 8",
            hint="`mandate run 008` migrates it; `mandate apply --check` works on version 7 too",
        )


def load(session: Session, wanted: Wanted) -> State:
    """What the database has of what is wanted."""
    version = version_of(session)
    queries = _SELECT[version]
    organizations = session.rows(
        queries["organizations"],
        {"every": wanted.every, "names": list(wanted.names), "ids": list(wanted.ids)},
    )
    params = {
        "organizations": [row["organization_id"] for row in organizations],
        "scopes": list(wanted.scopes),
        "specs": list(wanted.specs),
    }
    domains, scopes, specs, snapshots = (tuple(session.rows(queries[table], params)) for table in _TABLES[1:])
    return State(tuple(organizations), domains, scopes, specs, snapshots, version=version)


def everything(session: Session) -> State:
    """All that a database has to govern by. Raises NotMandate."""
    with session.transaction():
        session.execute(_ONE_PICTURE)
        return load(session, Wanted(every=True))


def preview(session: Session, document: Document, ids: Ids) -> Plan:
    """The diff as it is now; nothing is locked.

    Raises InvalidDocument, Conflict, NeedsVersion8, NotMandate.
    """
    with session.transaction():
        session.execute(_ONE_PICTURE)
        return _planned(session, document, ids)


def apply(session: Session, document: Document, ids: Ids, *, expected: Plan | None = None) -> Plan:
    """Write what a document declares and is not there yet, in one transaction; the plan that was written.

    Others who do the same wait for each other. Raises what `preview` does, Changed when the diff is no longer
    the one that was expected, LockNotAvailable when another takes too long.
    """
    try:
        with session.transaction():
            session.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_SECONDS}s",))
            session.execute("SELECT pg_advisory_xact_lock(hashtextextended('mandate.governance', 0))")
            plan = _planned(session, document, ids)
            if expected is not None and plan.creations and plan.creations != expected.creations:
                raise Changed(
                    "the database changed after the diff was shown; nothing was changed",
                    hint="run it again and look at the new diff",
                )
            return _write(session, plan)
    except LockNotAvailable as error:
        raise LockNotAvailable(
            f"somebody else has been applying for more than {LOCK_SECONDS} seconds", hint="try again"
        ) from error
    except DatabaseError as error:
        raise _explained(error) from error


def write(
    target: Target,
    document: Document,
    application_name: str,
    *,
    seconds: float,
    about: Mapping[str, str] = EVERYTHING,
) -> Plan:
    """`apply` on a connection of its own, with so much time for each statement; `about`: whose rows."""
    settings = {"TimeZone": "UTC", "statement_timeout": f"{round(seconds * 1000)}ms", **about}
    with connect(target, application_name=application_name, settings=settings) as session:
        return apply(session, document, Ids())


def _explained(error: DatabaseError) -> Exception:
    if error.sqlstate == "23505":
        return Changed(
            "somebody else wrote the same at this moment; nothing was changed", hint="run it again"
        )
    if may_be_outdated(error.sqlstate):
        return Changed(
            "the schema is being changed; nothing was changed", hint="run it again when that is over"
        )
    return error


def _planned(session: Session, document: Document, ids: Ids) -> Plan:
    require_writable(session)
    plan = planning.plan(document, load(session, planning.wanted(document)), ids)
    refuse(document.source, plan.defects, plan.conflicts)
    return plan


def refuse(source: Source, defects: Sequence[Defect], conflicts: Sequence[Defect] = ()) -> None:
    """Raise InvalidDocument, with everything, when there is a defect; Conflict when only conflicts are."""
    found = source.located([*defects, *conflicts])
    if found and (defects or source.defects):
        raise InvalidDocument(source.name, found)
    if found:
        raise Conflict(source.name, found)


def _write(session: Session, plan: Plan) -> Plan:
    """Insert what is new; the plan with the time at which each was."""
    written: dict[int, Change] = {}
    for change in plan.creations:
        if change.event is not None:
            session.execute(_INSERT_EVENT, {**change.row, "event": change.event})
            written[id(change)] = change
            continue
        row = {key: Jsonb(value) if key in _JSON else value for key, value in change.row.items()}
        created_at = session.value(_INSERT[change.kind], row)
        written[id(change)] = replace(change, row={**change.row, "created_at": created_at})
    for organization_id in dict.fromkeys(change.row["organization_id"] for change in written.values()):
        session.execute("SELECT pg_notify(%s, %s)", (CHANNEL, organization_id))
    return replace(plan, changes=tuple(written.get(id(change), change) for change in plan.changes))
