"""Loading into empty tables fast: their indexes and keys are put aside and built again afterwards, all in
the caller's transaction, so that whatever happens the tables are never seen without them.

What cannot be put back exactly as it was (an object that something else depends on, that has a comment, a
tablespace, a statistics target, or that is not valid) stays where it is, and is merely slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mandate.errors import MandateError
from mandate.postgres.connection import Session, sql
from mandate.progress import Task

_FIND = (Path(__file__).parent / "bulk_objects.sql").read_bytes()
_DEFINITIONS = (Path(__file__).parent / "bulk_definitions.sql").read_bytes()
_CLUSTERABLE = """
    SELECT c.relname AS name, n.relname AS index
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary AND i.indisvalid
    JOIN pg_catalog.pg_class n ON n.oid = i.indexrelid
    WHERE c.relnamespace = 'mandate'::regnamespace AND c.relkind = 'r' AND c.relname = ANY (%(tables)s)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_index o WHERE o.indrelid = c.oid AND o.indisclustered)
"""


class NotRestored(MandateError):
    """An index or constraint did not come back as it was: the transaction must not be committed."""

    code = "not-restored"


@dataclass(frozen=True)
class Aside:
    """What was put aside, and what the tables' definitions were before."""

    tables: tuple[str, ...]
    drops: tuple[str, ...]
    creates: tuple[str, ...]
    before: frozenset[str]


def new_files(session: Session, tables: Sequence[str]) -> tuple[str, ...]:
    """Give empty tables new files, which disappear with the transaction should it fail; the tables done.

    TRUNCATE would do as well, but version 8 refuses it. A table without a primary key, or one that is
    clustered already, keeps its file: a failed load then leaves pages for VACUUM to reclaim.
    """
    found = session.rows(_CLUSTERABLE, {"tables": list(tables)})
    for row in found:
        table, index = sql.Identifier("mandate", row["name"]), sql.Identifier(row["index"])
        session.execute(sql.SQL("CLUSTER {} USING {}").format(table, index))
        session.execute(sql.SQL("ALTER TABLE {} SET WITHOUT CLUSTER").format(table))
    return tuple(row["name"] for row in found)


def put_aside(session: Session, tables: Sequence[str]) -> Aside:
    """Drop what can be built again. The caller holds ACCESS EXCLUSIVE locks and a transaction."""
    before = _definitions(session, tables)
    found = session.rows(_FIND, {"tables": list(tables)})
    drops = tuple(row["drop_command"] for row in found)
    creates = tuple(row["create_command"] for row in sorted(found, key=lambda row: -row["place"]))
    for command in drops:
        session.execute(command.encode())
    return Aside(tuple(tables), drops, creates, before)


def put_back(session: Session, aside: Aside, task: Task) -> None:
    """Build everything again and prove that it is what it was. Raises NotRestored."""
    for done, command in enumerate(aside.creates):
        task.update(done, note=_subject(command))
        session.execute(command.encode())
    task.update(len(aside.creates), note="")
    after = _definitions(session, aside.tables)
    if after != aside.before:
        raise NotRestored(
            f"indexes or constraints differ after the load: {sorted(after ^ aside.before)[:3]}",
            hint="nothing was changed; please report this with the output of `mandate db psql -c '\\d+'`",
        )


def _definitions(session: Session, tables: Sequence[str]) -> frozenset[str]:
    rows = session.rows(_DEFINITIONS, {"tables": list(tables)})
    return frozenset(row["definition"] for row in rows)


def _subject(command: str) -> str:
    """The name that a CREATE INDEX or ADD CONSTRAINT command gives, for a person to see."""
    words = command.split()
    marker = "INDEX" if "INDEX" in words[:3] else "CONSTRAINT"
    return words[words.index(marker) + 1].strip('"')


def tune(session: Session, *, memory_kib: int, workers: int) -> None:
    """Settings of this transaction only, for building indexes and checking keys."""
    for name, value in {
        "maintenance_work_mem": f"{memory_kib}kB",
        "max_parallel_maintenance_workers": str(workers),
        "work_mem": f"{memory_kib // 4}kB",
        "jit": "off",
    }.items():
        session.execute(sql.SQL("SELECT set_config(%s, %s, true)"), (name, value))
