"""The ways in which a run can migrate, and what follows from each. Pure."""

from __future__ import annotations

from typing import Literal

Mode = Literal["engine", "online", "plain-sql"]

ENGINE: Mode = "engine"
ONLINE: Mode = "online"
PLAIN_SQL: Mode = "plain-sql"
DEFAULT: Mode = ENGINE

WORDS = {
    ENGINE: "by the rekey engine, services stopped",
    ONLINE: "by the rekey engine, services stay up",
    PLAIN_SQL: "by the hand-run file through psql, services stopped",
}


def words(mode: str) -> str:
    """For a person; the name itself of a mode that another release may know."""
    return next((text for name, text in WORDS.items() if name == mode), mode)


def parse(text: str) -> Mode:
    """The mode of a record. A name of another release counts as plain SQL, which promises least."""
    return next((name for name in WORDS if name == text), PLAIN_SQL)


def by_engine(mode: str) -> bool:
    """Whether the rekey engine migrates: it keeps the old tables, and can go back without loss."""
    return mode in (ENGINE, ONLINE)


def point_of_no_return(mode: str) -> str:
    """The step after which going back means a restore."""
    return "finalize" if by_engine(mode) else "restart"
