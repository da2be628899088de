"""Migration 008 on the engine: the schema and rows of the hand-run file, and version 7 again afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
from psycopg import sql
from tests.servers import DatabaseFactory
from tests.shapes import SHAPES, make
from tests.sqlfiles import REFERENCE, dump, migrate, prepare, verify

from mandate.postgres.connection import Session, Target, connect
from mandate.postgres.embedded import EmbeddedServer
from mandate.progress import Silent
from mandate.rekey.fingerprint import fingerprint_schema
from mandate.runbook import identity

FINANCE = "00000000-0000-0000-0000-000000000001"
BORN = "5c1000ff-0000-4000-8000-0000000000ff"


def clone(target: Target, database: DatabaseFactory, server: EmbeddedServer | None = None) -> Target:
    """Another database with the same rows, times of creation too."""
    copy = database("empty", server=server) if server else database("empty")
    with connect(copy.with_database("postgres")) as session:
        names = sql.Identifier(copy.database), sql.Identifier(target.database)
        session.execute(sql.SQL("DROP DATABASE {}").format(names[0]))
        session.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
        session.execute(sql.SQL("ALTER DATABASE {} SET search_path = mandate, public").format(names[0]))
    return copy


def contents(target: Target) -> dict[str, str]:
    """Fingerprints of the record's tables; of what 008 writes down about itself, the keys alone."""
    with connect(target) as session:
        found = {name: str(each) for name, each in fingerprint_schema(session, ["mandate"]).items()}
        if "mandate.identity_map" in found:
            keys = "SELECT kind, old_key, new_key, organization_id FROM mandate.identity_map ORDER BY 1, 2"
            found["mandate.identity_map"] = str(session.rows(keys))
            found.pop("mandate.migration_log")
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_goes_forward_and_back_as_the_hand_run_file_does(
    postgres: EmbeddedServer, database: DatabaseFactory, name: str
) -> None:
    forward_and_back(postgres, database, name)


def test_every_server_goes_forward_and_back(any_postgres: EmbeddedServer, database: DatabaseFactory) -> None:
    if any_postgres.version != 18:
        forward_and_back(any_postgres, database, "full")


def forward_and_back(server: EmbeddedServer, database: DatabaseFactory, name: str) -> None:
    shape = SHAPES[name]
    target = make(database, server, shape)
    by_hand = clone(target, database, server)
    migrate(by_hand)
    engine = identity.engine(target, Silent())
    if name == "extras":
        prepare(by_hand, "DROP VIEW mandate.names;")
    version_7, rows = dump(target), contents(target)

    engine.run()
    verify(target)
    assert contents(target) == contents(by_hand)
    engine.rollback()
    assert dump(target) == version_7
    assert contents(target) == rows
    engine.run()
    engine.finalize()
    verify(target)
    assert contents(target) == contents(by_hand)
    if shape.extras:
        prepare(target, shape.extras)
    assert dump(target) == REFERENCE.read_text("utf-8")


class Said(Silent):
    """Keeps what a person would read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def written_in_version_8(session: Session) -> None:
    """A domain, scopes, a snapshot whose policies name them, and events, as clients write them."""
    session.execute(
        f"""
        INSERT INTO mandate.domains (organization_id, domain) VALUES ('{FINANCE}', 'born');
        INSERT INTO mandate.scopes (scope_id, domain, organization_id, owning_team)
        VALUES ('born.chosen.by.hand', 'born', '{FINANCE}', 'Team'),
               ('finance.new', 'finance', '{FINANCE}', 'Team');
        INSERT INTO mandate.policy_snapshots (snapshot_id, version, organization_id, domain, policies)
        VALUES ('{BORN}', 1, '{FINANCE}', 'born',
                '[{{"id": "p", "scope_id": "born.chosen.by.hand", "domain": "born"}}, {{"scope_id": null}}]');
        INSERT INTO mandate.decision_events
            (decision_id, intent, stage, actor, target, context, scope, timestamp, organization_id, domain)
        VALUES ('{BORN}', 'i', 'executed', 'a', 't', '{{}}', '{{}}', now(), '{FINANCE}', 'born');
        INSERT INTO mandate.verdict_events
            (verdict_id, decision_id, snapshot_id, verdict, matched_policy_ids, timestamp, organization_id,
             domain, scope_id)
        VALUES ('{BORN}', '{BORN}', '{BORN}', 'ALLOW', '{{p}}', now(), '{FINANCE}',
                'born', 'born.chosen.by.hand')
    """.encode()
    )


def test_what_is_born_in_the_reverse_window_survives_the_way_back_and_forth(
    database: DatabaseFactory,
) -> None:
    target = database("v7-seeded")
    with connect(target) as session:
        known = session.rows("SELECT domain_id, name FROM mandate.domains ORDER BY 1")
    said = Said()
    engine = identity.engine(target, said)
    engine.run()
    with connect(target) as session:
        written_in_version_8(session)
    in_version_8 = contents(target)

    engine.rollback()
    assert any("not unique" in line for line in said.lines)
    with connect(target) as session:
        domains = session.rows("SELECT domain_id, name FROM mandate.domains ORDER BY 1")
        assert [row for row in domains if row["name"] != "born"] == known
        row = session.row(
            "SELECT v.scope_id::text, s.domain_id = d.domain_id AS agrees, p.policies, d.name"
            " FROM mandate.verdict_events v JOIN mandate.scopes s USING (scope_id)"
            " JOIN mandate.domains d ON d.domain_id = v.domain_id"
            " JOIN mandate.policy_snapshots p USING (snapshot_id)"
            " WHERE v.verdict_id = %s",
            (BORN,),
        )
    assert row is not None
    assert (row["agrees"], row["name"]) == (True, "born")
    assert row["policies"] == [
        {"id": "p", "scope_id": row["scope_id"], "domain": "born"},
        {"scope_id": None},
    ]

    engine.run()
    again = contents(target)
    assert again.pop("mandate.identity_map") != in_version_8.pop("mandate.identity_map")
    assert again == in_version_8


def test_a_scope_born_while_it_runs_changes_the_id_of_the_one_it_collides_with(
    database: DatabaseFactory,
) -> None:
    target = database("v7-seeded")
    with connect(target) as session:
        twin = session.row(
            "SELECT * FROM mandate.scopes WHERE environment IS NOT NULL AND service IS NOT NULL"
            " AND scope_id IN (SELECT scope_id FROM mandate.verdict_events) LIMIT 1"
        )
    assert twin is not None

    def collide(_: Session) -> None:
        with connect(target) as session:
            session.execute(
                "INSERT INTO mandate.scopes (scope_id, scope_domain, service, agent, scope_system,"
                " environment, tenant, organization_id, domain_id) SELECT %s, scope_domain, upper(service),"
                " agent,"
                " scope_system, environment, tenant, organization_id, domain_id FROM mandate.scopes"
                " WHERE scope_id = %s ON CONFLICT DO NOTHING",
                (BORN, twin["scope_id"]),
            )

    by_hand = clone(target, database)
    engine = identity.engine(target, Silent())
    hooks = engine.options.hooks
    late = engine.options.with_hooks(replace(hooks, before_swap=(*hooks.before_swap, collide)))
    replace(engine, options=late).run()
    with connect(by_hand) as session, connect(target) as there:
        born = there.row("SELECT created_at FROM mandate.scopes WHERE scope_id LIKE %s", ("%-" + BORN[:8],))
        assert born is not None
        session.execute(
            "INSERT INTO mandate.scopes (scope_id, scope_domain, service, agent, scope_system, environment,"
            " tenant, organization_id, domain_id, created_at) SELECT %s, scope_domain, upper(service), agent,"
            " scope_system, environment, tenant, organization_id, domain_id, %s FROM mandate.scopes"
            " WHERE scope_id = %s",
            (BORN, born["created_at"], twin["scope_id"]),
        )
    migrate(by_hand)
    assert contents(target) == contents(by_hand)
