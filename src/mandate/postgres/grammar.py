"""PostgreSQL's own grammar, imported when it is first used: its generated classes take half a second."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def load() -> Any:
    """The module `postgast`: parse, scan, split, deparse, find_nodes, pg_query_pb2, PgQueryError."""
    return import_module("postgast")
