"""Applying a mandate.yaml to a real database: what it writes, refuses and leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tests.conftest import MIGRATIONS
from tests.governing import WHOLE, as_yaml, changed, whole_files
from tests.servers import DatabaseFactory, Databases

from mandate.controlplane import seed
from mandate.controlplane.governance import documents, render, review, source, store
from mandate.controlplane.governance.planning import Plan
from mandate.controlplane.governance.source import InvalidDocument
from mandate.controlplane.governance.state import Wanted
from mandate.controlplane.governance.store import Conflict, Ids, NeedsVersion8
from mandate.errors import DatabaseError, NotMandate
from mandate.postgres.connection import Session, connect, sql
from mandate.postgres.embedded import EmbeddedServer

TABLES = ("organizations", "domains", "scopes", "mandate_specs", "policy_snapshots")
CREATED = 7
POLICIES = WHOLE[WHOLE.index("    policies:") : WHOLE.index("  - domain: logistics")]


@pytest.fixture
def v8(database: DatabaseFactory) -> Iterator[Session]:
    with connect(database("v8")) as session:
        yield session


@pytest.fixture(scope="module")
def untouched(postgres: EmbeddedServer, _databases: dict[Path, Databases]) -> Iterator[Session]:
    """One database for every test that writes nothing, or takes it back."""
    databases = _databases.setdefault(postgres.data_dir, Databases(postgres, MIGRATIONS))
    target = databases.create("v8")
    with connect(target) as session:
        yield session
    databases.drop(target.database)


def document(text: str) -> documents.Document:
    return documents.parse(source.read_yaml(text.encode(), "m.yaml"))


def applied(session: Session, text: str) -> Plan:
    return store.apply(session, document(text), Ids())


def names(plan: Plan) -> list[str]:
    return [f"{change.kind} {change.name}" for change in plan.creations]


def refusal(session: Session, text: str) -> list[str]:
    """`line:column message` of a conflict; nothing may have been written."""
    before = counts(session)
    with pytest.raises(Conflict) as refused:
        applied(session, text)
    assert counts(session) == before
    return [f"{d['line']}:{d['column']} {d['message']}" for d in refused.value.fields["defects"]]


def counts(session: Session) -> dict[str, int]:
    statement = sql.SQL("SELECT count(*) FROM mandate.{}")
    return {table: session.value(statement.format(sql.Identifier(table))) for table in TABLES}


def test_apply_creates_everything_once(v8: Session) -> None:
    before = counts(v8)
    assert names(applied(v8, WHOLE)) == [
        *("organization Acme", "domain billing", "domain logistics", "scope billing.prod.payments"),
        *("scope billing.default", "spec billing.refund version 1 (active)", "policies snapshot 1"),
    ]
    after = counts(v8)
    assert [after[table] - before[table] for table in TABLES] == [1, 2, 2, 1, 1]
    assert applied(v8, WHOLE).creations == ()
    assert counts(v8) == after
    spec = v8.row("SELECT * FROM mandate.mandate_specs WHERE spec_id = 'billing.refund'")
    assert spec is not None
    assert (spec["status"], spec["version"], spec["stage"]) == ("active", 1, "pre_commit")
    assert spec["enforcement"] == {"default_verdict": "ALLOW"}
    assert spec["signals"][0] == {"name": "amount", "type": "number", "required": True, "source": "context"}
    scope = v8.row("SELECT * FROM mandate.scopes WHERE scope_id = 'billing.prod.payments'")
    assert scope is not None
    assert (scope["environment"], scope["agent"], scope["owning_team"]) == ("prod", None, "Payments")


def test_changed_policies_are_a_new_snapshot_with_its_diff(v8: Session) -> None:
    applied(v8, WHOLE)
    text = changed("value: 500", "value: 700")
    text = changed("        verdict: BLOCK\n", "        verdict: PAUSE\n", text)
    text = changed("      - id: pause-large", "      - id: pause-huge", text)
    (change,) = applied(v8, text).creations
    assert change.name == "snapshot 2"
    assert list(change.details) == [
        *("+ pause-huge", "~ block-unverified", "    verdict: BLOCK -> PAUSE", "- pause-large"),
    ]
    stored = v8.rows(
        "SELECT version, policies FROM mandate.policy_snapshots WHERE domain = 'billing' ORDER BY 1"
    )
    assert [row["version"] for row in stored] == [1, 2]
    assert [policy["id"] for policy in stored[1]["policies"]] == ["pause-huge", "block-unverified"]
    assert applied(v8, text).creations == ()
    # Back again is a third version, not the first.
    assert names(applied(v8, WHOLE)) == ["policies snapshot 3"]
    (change,) = applied(v8, changed("value: 500", "value: 501.5")).creations
    assert list(change.details) == ["~ pause-large", "    conditions: amount > 500 -> amount > 501.5"]
    assert names(applied(v8, changed(POLICIES, "    policies: []\n"))) == ["policies snapshot 5"]
    # Without `policies` the snapshot stays.
    assert applied(v8, changed(POLICIES, "")).creations == ()


def test_a_number_is_not_true_and_one_is_one_point_zero(v8: Session) -> None:
    applied(v8, WHOLE)
    assert applied(v8, changed("value: 500", "value: 500.0")).creations == ()
    # Its digits in PostgreSQL are those of an integer that no double is.
    large = changed("value: 500", "value: 5.708270926197289e+16")
    assert names(applied(v8, large)) == ["policies snapshot 2"]
    assert applied(v8, large).creations == ()
    assert names(applied(v8, WHOLE)) == ["policies snapshot 3"]
    text = changed('operator: "==", value: false', 'operator: "==", value: true')
    assert names(applied(v8, text)) == ["policies snapshot 4"]


def test_an_active_spec_that_differs_cannot_be_replaced_on_version_8(v8: Session) -> None:
    applied(v8, WHOLE)
    text = changed("[web, phone, no]", "[web, phone]")
    (told,) = refusal(v8, text)
    assert told.startswith("15:9 spec billing.refund version 1 is active for issue_refund at pre_commit")
    for words in ("differs in signals", "cannot retire", "`status: draft`", "version 2", "migration 009"):
        assert words in told
    # What it says is possible is possible, and again idempotent.
    draft = changed("        stage: pre_commit\n", "        stage: pre_commit\n        status: draft\n", text)
    assert names(applied(v8, draft)) == ["spec billing.refund version 2 (draft)"]
    assert applied(v8, draft).creations == ()
    assert applied(v8, WHOLE).creations == ()
    (told,) = refusal(v8, text)
    assert "as version 3" in told
    (told,) = refusal(v8, changed("        stage", "        version: 2\n        stage", text))
    assert "differs in status" in told
    assert "cannot activate" in told
    (told,) = refusal(v8, changed("        stage", "        version: 1\n        stage", text))
    assert "a version never changes" in told


def test_what_has_no_versions_cannot_be_changed(v8: Session) -> None:
    applied(v8, WHOLE)
    text = changed("description: An example", "description: Another")
    text = changed("description: Payments and refunds", "metadata: {tier: 1}", text)
    text = changed("environment: prod", "environment: staging", text)
    text = changed("owning_team: Payments", "owning_team: Refunds", text)
    told = refusal(v8, text)
    assert [place.split(" ")[0] for place in told] == ["4:16", "7:15", "10:22", "12:22"]
    assert all("cannot be changed" in place for place in told)
    assert "'An example'" in told[0]
    # What is left out of the descriptions is left as it is; a selector that is left out is another scope.
    assert applied(v8, changed("        owning_team: Payments\n", "")).creations == ()
    (place,) = refusal(v8, changed("        environment: prod\n", ""))
    assert place.startswith("9:9 scope billing.prod.payments has environment prod")


def test_ids_are_shared_by_the_whole_database(v8: Session) -> None:
    applied(v8, WHOLE)
    told = refusal(v8, changed("name: Acme", "name: Other"))
    assert [place.split(" ")[0] for place in told] == ["9:19", "13:19", "15:9"]
    organization = v8.value("SELECT organization_id::text FROM mandate.organizations WHERE name = 'Acme'")
    head = f"mandate: 1\norganization:\n  organization_id: {organization.upper()}\n"
    assert applied(v8, head).creations == ()
    assert applied(v8, f"{head}  name: Acme\n").creations == ()
    (told_name,) = refusal(v8, f"{head}  name: Other\n")
    assert told_name == f"4:9 organization {organization} is called Acme, for ever"
    other = head.replace(organization.upper(), "99999999-9999-4999-8999-999999999999")
    (told_id,) = refusal(v8, f"{other}  name: Acme\n")
    assert told_id == f"3:20 Acme has organization_id {organization}"
    with pytest.raises(InvalidDocument, match="there is no organization 99999999"):
        applied(v8, other)


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("refunds\n        spec_id: billing.refund\n        scope_id: billing.prod.payments",
         "refunds\n        spec_id: billing.refund\n        scope_id: billing.prod.paymints", "38:19",
         "there is no scope billing.prod.paymints in domain billing: billing.prod.payments?"),
        ("refunds\n        spec_id: billing.refund", "refunds\n        spec_id: billing.refunds", "37:18",
         "no active or draft spec billing.refunds in domain billing: billing.refund?"),
        ("field: amount", "field: amonut", "40:20", "declares no signal amonut: amount?"),
        ("value: 500", "value: true", "42:20", "amount is number, compared with True"),
        ("value: 500", "value: [500]", "42:20", "> needs one value"),
        ("value: [web, phone]}", "value: web}", "49:51", "in needs a list"),
        ("value: [web, phone]}", "value: []}", "49:51", "never hold"),
        ("value: [web, phone]}", "value: [web, fax]}", "49:57", "fax is no value of channel: web, phone, no"),
        ('operator: "==", value: false', 'operator: "<", value: false', "48:50", "has no order"),
        ("[ALLOW, PAUSE, BLOCK, OBSERVE]", "[ALLOW, PAUSE]", "50:18", "does not allow BLOCK: ALLOW, PAUSE"),
        ("  - domain: logistics", "  - domain: billing", "51:5", "here twice"),
        (POLICIES, "", "6:5", "add `policies:`"),
    ],
)  # fmt: skip
def test_what_can_never_be_meant_is_refused(
    untouched: Session, old: str, new: str, place: str, words: str
) -> None:
    before = counts(untouched)
    with pytest.raises(InvalidDocument) as refused:
        applied(untouched, changed(old, new))
    found = [f"{d['line']}:{d['column']} {d['message']}" for d in refused.value.fields["defects"]]
    assert len(found) == 1, found
    assert found[0].startswith(f"{place} "), found
    assert words in found[0]
    assert counts(untouched) == before


def test_several_documents_in_one_transaction(v8: Session) -> None:
    second = WHOLE.replace("Acme", "Other").replace("billing", "claims")
    again = "---\nmandate: 1\norganization: {name: Acme}\ndomains:\n  - domain: more\n"
    assert len(applied(v8, WHOLE + "---\n" + second + again).creations) == 15
    before = counts(v8)
    v8.execute("CREATE FUNCTION pg_temp.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$")
    v8.execute("CREATE TRIGGER no BEFORE INSERT ON mandate.policy_snapshots EXECUTE FUNCTION pg_temp.no()")
    with pytest.raises(DatabaseError, match="no"):
        applied(v8, WHOLE.replace("Acme", "Third").replace("billing", "third"))
    assert counts(v8) == before


def test_who_listens_is_told_in_the_same_transaction(v8: Session) -> None:
    v8.execute("LISTEN mandate_changed")
    applied(v8, WHOLE)
    organization = v8.value("SELECT organization_id::text FROM mandate.organizations WHERE name = 'Acme'")
    assert [note.payload for note in v8.connection.notifies(timeout=5, stop_after=1)] == [organization]
    applied(v8, WHOLE)
    assert list(v8.connection.notifies(timeout=0)) == []


def test_two_at_once_give_one_result(database: DatabaseFactory) -> None:
    target = database("v8")

    def one(_: int) -> int:
        with connect(target) as session:
            return len(applied(session, WHOLE).creations)

    with ThreadPoolExecutor(6) as pool:
        created = sorted(pool.map(one, range(6)))
    assert created == [0, 0, 0, 0, 0, CREATED]
    with connect(target) as session:
        assert session.value("SELECT count(*) FROM mandate.policy_snapshots WHERE domain = 'billing'") == 1


def test_what_was_shown_is_what_is_written(v8: Session) -> None:
    ids = Ids()
    shown = store.preview(v8, document(WHOLE), ids)
    applied(v8, "mandate: 1\norganization: {name: Acme, description: An example}\n")
    before = counts(v8)
    with pytest.raises(store.Changed, match="changed after the diff was shown"):
        store.apply(v8, document(WHOLE), ids, expected=shown)
    assert counts(v8) == before


@pytest.mark.parametrize(("kind", "error"), [("v7", NeedsVersion8), ("empty", NotMandate)])
def test_other_databases_are_refused(database: DatabaseFactory, kind: str, error: type[Exception]) -> None:
    with connect(database(kind)) as session, pytest.raises(error):
        applied(session, WHOLE)


def rendered(session: Session) -> str:
    return render.text(store.everything(session))


def test_what_is_rendered_is_a_no_op(database: DatabaseFactory) -> None:
    target = database("v8")
    seed.load(target, seed.Parameters(decisions=20, domains=6))
    with connect(target) as session:
        text = rendered(session)
        plan = applied(session, text)
        assert plan.creations == ()
        assert len(plan.changes) > 100
        assert rendered(session) == text
        again = store.preview(session, document(text), Ids())
        assert [change.as_dict() for change in again.changes] == [change.as_dict() for change in plan.changes]


def test_whatever_is_applied_is_read_back_as_it_was_written(untouched: Session) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(whole_files())
    def check(files: list[Any]) -> None:
        text = as_yaml(files)
        with suppress(_Undo), untouched.transaction():
            applied(untouched, text)
            assert applied(untouched, text).creations == ()
            state = store.load(untouched, Wanted(names=frozenset({"Organization a", "Organization b"})))
            assert [row["name"] for row in state.organizations] == [
                file["organization"]["name"] for file in files
            ]
            assert applied(untouched, render.text(state)).creations == ()
            assert review.findings(state) == ()
            raise _Undo

    before = counts(untouched)
    check()
    assert counts(untouched) == before


class _Undo(Exception):
    """Takes back what an example wrote."""
