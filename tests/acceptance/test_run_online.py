"""Migration 008 under fire: services stay up, nobody is refused, nothing is lost; there, back, and again."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from tests import conducting
from tests.clients import Crowd, crowd, held_by
from tests.conducting import Finished, version
from tests.servers import DatabaseFactory
from tests.serving import serving
from tests.sqlfiles import REFERENCE, dump

from mandate.postgres.connection import Target, connect

pytestmark = pytest.mark.slow


def do(target: Target, place: Path, *arguments: str) -> Finished:
    done = conducting.command(target, place, *arguments, "--yes", "--format", "json")
    assert done.code == 0, done.stderr + done.stdout
    return done


def agree(target: Target, those: Crowd) -> None:
    """Everything that a client was told is written is there."""
    written, named, scoped = those.decisions, those.domains, those.scopes
    decisions, domains, scopes = held_by(target)
    assert {made: decisions.get(made) for made in written} == written
    assert named <= domains
    assert scoped <= scopes


def old_keys(target: Target) -> dict[str, UUID]:
    with connect(target) as session:
        rows = session.rows("SELECT name, domain_id FROM mandate.domains")
    return {row["name"]: row["domain_id"] for row in rows}


def test_there_and_back_and_there_again_while_everybody_works(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v7-seeded")
    before = old_keys(target)
    with serving(target, tmp_path / "log") as service, crowd(target, service) as those:
        there = do(target, tmp_path, "run", "008", "--online", "--no-rehearsal")
        assert there.json["run"]["mode"] == "online"
        agree(target, those)
        back = do(target, tmp_path, "rollback", "008")
        assert back.json["run"]["status"] == "rolled-back"
        assert version(target) == 7
        agree(target, those)
        after = old_keys(target)
        assert {name: after[name] for name in before} == before, "who had a UUID has it again"
        assert set(after) > set(before), "and who was born since has one, too"
        do(target, tmp_path, "run", "008", "--online", "--no-rehearsal")
        do(target, tmp_path, "finalize", "008")
        agree(target, those)
        those.require_unharmed()
    agree(target, those)
    those.require_unharmed()
    assert conducting.command(target, tmp_path, "verify", "008").code == 0
    assert dump(target) == REFERENCE.read_text("utf-8")
    with connect(target) as session:
        left = session.rows("SELECT nspname FROM pg_namespace WHERE nspname ~ '^mandate_(new|pre|rekey)_'")
    assert left == []
