"""The tables of a running change: log, log of the reverse window, chunks."""

from __future__ import annotations

from pathlib import Path

from mandate.postgres.connection import Session, sql
from mandate.rekey.model import Graph

_SQL = (Path(__file__).parent / "sql" / "work.sql").read_bytes()


def create(session: Session, graph: Graph) -> None:
    """Create the work schema and its tables where they are missing. Safe to repeat."""
    schema = sql.Identifier(graph.spec.work_schema)
    with session.transaction():
        session.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
        before = session.value("SELECT pg_catalog.current_setting('search_path')")
        session.execute(sql.SQL("SET LOCAL search_path = {}").format(schema))
        session.execute(_SQL)
        session.execute("SELECT pg_catalog.set_config('search_path', %s, true)", (before,))
