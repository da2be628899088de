"""Transactions whose snapshot is older than a swap may not write: they do not see all that is there.

REPEATABLE READ or SERIALIZABLE. The rows that the swap itself caught up are invisible to them, so that an
UPDATE would find nothing and say so. Triggers on the tables that arrive answer with 40001 instead, which
such clients do again, until no such transaction is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mandate.postgres.connection import Session, sql
from mandate.progress import Reporter
from mandate.rekey import locking
from mandate.rekey.direction import Direction
from mandate.rekey.model import Graph

_OLDER = (Path(__file__).parent / "sql" / "older_snapshots.sql").read_bytes()
_FUNCTION = "refuse_older_snapshot"
_POLL_SECONDS = 0.1

_BODY = """
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed'
        AND NOT pg_visible_in_snapshot(TG_ARGV[0]::xid8, pg_current_snapshot())
    THEN
        RAISE EXCEPTION 'could not serialize access to % because its key was changed', TG_RELID::regclass
            USING ERRCODE = 'serialization_failure', HINT = 'The transaction might succeed if retried.';
    END IF;
    RETURN NULL;
END
"""


def prepare(session: Session, graph: Graph) -> None:
    """Make what `guards` needs, while clients still work."""
    session.execute(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql"
            " SET search_path = pg_catalog, pg_temp AS {}"
        ).format(_function(graph), sql.Literal(_BODY))
    )


def guards(graph: Graph, direction: Direction, xid: str) -> Iterator[sql.Composed]:
    """Statements that keep who does not see the transaction `xid` from writing to the tables that arrive."""
    for table in graph.tables:
        arriving = direction.destination(graph, table)
        yield sql.SQL(
            "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION {function}({xid})"
        ).format(
            trigger=_trigger(graph),
            table=arriving,
            function=_function(graph),
            xid=sql.Literal(xid),
        )
        yield sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(arriving, _trigger(graph))


def wait_for_older(session: Session, graph: Graph, say: Callable[[str | None], None]) -> None:
    """Return when nobody has a snapshot of before the swap; `say` is told who is waited for."""
    known = {"name": _name(graph), "now": session.value("SELECT pg_catalog.clock_timestamp()")}
    said: list[int] = []
    while found := session.rows(_OLDER, known):
        if (pids := [row["pid"] for row in found]) != said:
            who = "; ".join(map(locking.in_words, found))
            say(f"waits until nobody has a snapshot of before the swap: {who}")
            said = pids
        time.sleep(_POLL_SECONDS)
    say(None)


def remove(session: Session, graph: Graph, reporter: Reporter) -> None:
    """Take the triggers off: in a transaction at once, else when the tables are free. Safe to repeat."""
    drop = sql.SQL(";\n").join(
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(_trigger(graph), table.old.identifier)
        for table in graph.tables
    )

    def work() -> None:
        session.execute(drop)

    if session.in_transaction:
        work()
    elif session.value("SELECT count(*) FROM pg_catalog.pg_trigger WHERE tgname = %s", (_name(graph),)):
        tables = [table.old.identifier for table in graph.tables]
        locking.insist(session, tables, sql.SQL("ACCESS EXCLUSIVE"), work, reporter)


def _name(graph: Graph) -> str:
    return f"zzzz_mandate_{graph.spec.rekey.name}_snapshot"


def _trigger(graph: Graph) -> sql.Identifier:
    return sql.Identifier(_name(graph))


def _function(graph: Graph) -> sql.Identifier:
    return sql.Identifier(graph.spec.work_schema, _FUNCTION)
