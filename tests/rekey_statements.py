"""Clients that write by every kind of statement there is, and what has to be there for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mandate.errors import DatabaseError
from mandate.postgres.connection import Session, Target, connect, sql

SCHEMA = b"""
CREATE SCHEMA kinds;
CREATE TABLE kinds.parents (id int PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE kinds.children (
    id int PRIMARY KEY,
    parent int REFERENCES kinds.parents ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE INITIALLY IMMEDIATE,
    said text
);
CREATE INDEX children_parent ON kinds.children (parent);
ALTER TABLE kinds.children ENABLE ROW LEVEL SECURITY;
CREATE POLICY odd ON kinds.children USING (said <> 'hidden') WITH CHECK (said <> 'hidden');
"""

CHANGE = """
[rekey]
name = "kinds"
[[key]]
table = "kinds.parents"
columns = ["id"]
[[key.new]]
name = "id"
type = "bigint"
expression = "id::bigint"
[[key]]
table = "kinds.children"
columns = ["id"]
[[key.new]]
name = "id"
type = "bigint"
expression = "id::bigint"
"""

# Given up by PostgreSQL so that they are done again, whoever is at work.
_AGAIN = ("40001",)


@dataclass
class KindsWriter:
    """Parents and children of its own: `rows` is child -> (parent, what it says); `done`: how often each."""

    target: Target
    number: int
    role: str
    parents: dict[int, str] = field(default_factory=dict)
    rows: dict[int, tuple[int, str]] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    next: int = 0
    prepared: str | None = None

    def work(self, stop: threading.Event) -> None:
        """Kind after kind until told to stop, each counted once it has committed."""
        with connect(self.target, application_name=f"kinds-{self.number}") as session:
            session.connection.prepare_threshold = None
            session.execute("SELECT pg_advisory_lock(%s)", (self.number,))
            while not stop.is_set():
                for name, kind in KINDS.items():
                    self._do(session, name, kind)
                    stop.wait(0.001)

    def _do(self, session: Session, name: str, kind: Kind) -> None:
        before = dict(self.parents), dict(self.rows)
        try:
            with session.transaction():
                kind(self, session)
            self.done[name] = self.done.get(name, 0) + 1
        except DatabaseError as error:
            self.parents, self.rows = before
            if error.sqlstate not in _AGAIN:
                self.failures.append(f"{name}: {error.sqlstate} {error}")
        if name == "two-phase commit" and self.prepared:
            session.execute(sql.SQL("COMMIT PREPARED {}").format(sql.Literal(self.prepared)))
            self.prepared = None

    def fresh(self) -> int:
        self.next += 1
        return 1_000_000 * self.number + self.next

    def parent(self) -> int:
        return max(self.parents)

    def child(self) -> int:
        return max(self.rows)

    def add(self, session: Session, said: str) -> None:
        key = self.fresh()
        session.execute("INSERT INTO kinds.children VALUES (%s, %s, %s)", (key, self.parent(), said))
        self.rows[key] = (self.parent(), said)

    def check(self, session: Session) -> None:
        """The database holds what it has counted, and nothing else of it."""
        assert self.failures == []
        mine = (1_000_000 * self.number, 1_000_000 * (self.number + 1))
        rows = session.rows("SELECT id, parent, said FROM kinds.children WHERE id > %s AND id < %s", mine)
        there = {row["id"]: (row["parent"], row["said"]) for row in rows}
        different = {
            key: (there.get(key), self.rows.get(key))
            for key in sorted(there.keys() | self.rows.keys())
            if there.get(key) != self.rows.get(key)
        }
        assert different == {}, f"{len(different)} of {len(self.rows)} (there, counted): {different}"
        rows = session.rows("SELECT id, name FROM kinds.parents WHERE id > %s AND id < %s", mine)
        assert {row["id"]: row["name"] for row in rows} == self.parents


Kind = Callable[[KindsWriter, Session], None]


def _insert(writer: KindsWriter, session: Session) -> None:
    key = writer.fresh()
    session.execute("INSERT INTO kinds.parents VALUES (%s, %s)", (key, f"parent {key}"))
    writer.parents[key] = f"parent {key}"
    for _ in range(3):
        writer.add(session, "inserted")


def _copy(writer: KindsWriter, session: Session) -> None:
    keys = [writer.fresh() for _ in range(5)]
    with session.connection.cursor() as cursor, cursor.copy("COPY kinds.children FROM STDIN") as rows:
        for key in keys:
            rows.write_row((key, writer.parent(), "copied"))
    writer.rows |= {key: (writer.parent(), "copied") for key in keys}


def _merge(writer: KindsWriter, session: Session) -> None:
    old, new = writer.child(), writer.fresh()
    session.execute(
        "MERGE INTO kinds.children AS c USING (VALUES (%(old)s), (%(new)s)) AS n (id) ON c.id = n.id"
        " WHEN MATCHED THEN UPDATE SET said = 'matched'"
        " WHEN NOT MATCHED THEN INSERT (id, parent, said) VALUES (n.id, %(parent)s, 'merged')",
        {"old": old, "new": new, "parent": writer.parent()},
    )
    writer.rows[old] = (writer.rows[old][0], "matched")
    writer.rows[new] = (writer.parent(), "merged")


def _upsert(writer: KindsWriter, session: Session) -> None:
    old, new = writer.child(), writer.fresh()
    session.execute(
        "INSERT INTO kinds.children VALUES (%(old)s, %(parent)s, 'new'), (%(new)s, %(parent)s, 'new')"
        " ON CONFLICT (id) DO UPDATE SET said = 'conflict'",
        {"old": old, "new": new, "parent": writer.parent()},
    )
    writer.rows[old] = (writer.rows[old][0], "conflict")
    writer.rows[new] = (writer.parent(), "new")


def _writable_cte(writer: KindsWriter, session: Session) -> None:
    old, new = writer.child(), writer.fresh()
    session.execute(
        "WITH gone AS (DELETE FROM kinds.children WHERE id = %s RETURNING parent, said)"
        " INSERT INTO kinds.children SELECT %s, parent, said FROM gone",
        (old, new),
    )
    writer.rows[new] = writer.rows.pop(old)


def _cascade(writer: KindsWriter, session: Session) -> None:
    old, new = writer.parent(), writer.fresh()
    session.execute("UPDATE kinds.parents SET id = %s WHERE id = %s", (new, old))
    writer.parents[new] = writer.parents.pop(old)
    writer.rows = {
        key: (new if parent == old else parent, said) for key, (parent, said) in writer.rows.items()
    }


def _key_of_child(writer: KindsWriter, session: Session) -> None:
    old, new = writer.child(), writer.fresh()
    session.execute("UPDATE kinds.children SET id = %s WHERE id = %s", (new, old))
    writer.rows[new] = writer.rows.pop(old)


def _deferred(writer: KindsWriter, session: Session) -> None:
    """The child comes before its parent."""
    parent, child = writer.fresh(), writer.fresh()
    session.execute("SET CONSTRAINTS ALL DEFERRED")
    session.execute("INSERT INTO kinds.children VALUES (%s, %s, 'early')", (child, parent))
    session.execute("INSERT INTO kinds.parents VALUES (%s, %s)", (parent, f"late {parent}"))
    writer.parents[parent] = f"late {parent}"
    writer.rows[child] = (parent, "early")


def _savepoint(writer: KindsWriter, session: Session) -> None:
    writer.add(session, "before")
    session.execute("SAVEPOINT here")
    session.execute("DELETE FROM kinds.children WHERE id = %s", (writer.child(),))
    session.execute("INSERT INTO kinds.children VALUES (%s, %s, 'undone')", (writer.fresh(), writer.parent()))
    session.execute("ROLLBACK TO SAVEPOINT here")


def _delete(writer: KindsWriter, session: Session) -> None:
    """The parent before the last one, with its children."""
    gone = min(writer.parents)
    if gone == writer.parent():
        return
    session.execute("DELETE FROM kinds.parents WHERE id = %s", (gone,))
    del writer.parents[gone]
    writer.rows = {key: row for key, row in writer.rows.items() if row[0] != gone}
    if not writer.rows:
        writer.add(session, "the last")


def _reuse(writer: KindsWriter, session: Session) -> None:
    key = writer.child()
    session.execute("DELETE FROM kinds.children WHERE id = %s", (key,))
    session.execute("INSERT INTO kinds.children VALUES (%s, %s, 'again')", (key, writer.parent()))
    writer.rows[key] = (writer.parent(), "again")


def _without_rights(writer: KindsWriter, session: Session) -> None:
    """As a role that has rights on these tables alone, and whose rows a policy looks at."""
    session.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(writer.role)))
    writer.add(session, "by a role")
    session.execute("UPDATE kinds.children SET said = 'by a role' WHERE id = %s", (writer.child(),))


def _as_replica(writer: KindsWriter, session: Session) -> None:
    session.execute("SET LOCAL session_replication_role = replica")
    writer.add(session, "replicated")


def _repeatable_read(writer: KindsWriter, session: Session) -> None:
    session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    _read_and_write(writer, session, "repeatable")


def _serializable(writer: KindsWriter, session: Session) -> None:
    session.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    _read_and_write(writer, session, "serializable")


def _read_and_write(writer: KindsWriter, session: Session, said: str) -> None:
    """What it writes follows from what it reads."""
    key = writer.child()
    found = session.value("SELECT said FROM kinds.children WHERE id = %s", (key,))
    new = f"{said} after {str(found).partition(' ')[0]}"
    session.execute("UPDATE kinds.children SET said = %s WHERE id = %s", (new, key))
    writer.rows[key] = (writer.rows[key][0], f"{said} after {writer.rows[key][1].partition(' ')[0]}")


def _two_phase(writer: KindsWriter, session: Session) -> None:
    writer.add(session, "prepared")
    writer.prepared = f"kinds {writer.number} {writer.next}"
    session.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(writer.prepared)))


KINDS: dict[str, Kind] = {
    "insert": _insert,
    "copy": _copy,
    "merge": _merge,
    "on conflict": _upsert,
    "writable CTE": _writable_cte,
    "on update cascade": _cascade,
    "update of a key": _key_of_child,
    "deferred": _deferred,
    "savepoint": _savepoint,
    "delete": _delete,
    "key reused": _reuse,
    "role": _without_rights,
    "replica": _as_replica,
    "repeatable read": _repeatable_read,
    "serializable": _serializable,
    "two-phase commit": _two_phase,
}


@contextmanager
def writing(target: Target, role: str, count: int = 2) -> Iterator[list[KindsWriter]]:
    """Clients at work for as long as the block runs."""
    writers = [KindsWriter(target, number, role) for number in range(1, count + 1)]
    stop = threading.Event()
    threads = [threading.Thread(target=writer.work, args=(stop,)) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
