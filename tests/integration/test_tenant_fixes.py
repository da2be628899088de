"""What an operator is told to do for each pre-check of migration 009 that can fail."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands import mandate
from tests.integration.test_tenant_keys import BROKEN, PRE_CHECKS, REPLICA, TENANTS, A, event, run, scope
from tests.servers import DatabaseFactory
from tests.sqlfiles import MIGRATIONS, failed_checks, prepare, psql

from mandate.postgres.connection import connect
from mandate.postgres.script import Statement, read

FIXES = MIGRATIONS / "fixes"
AT_ONCE = {"PGOPTIONS": "-c mandate.long_transaction=0s"}
OLD = (
    "INSERT INTO identity_map (kind, old_key, new_key) VALUES ('scope', 'a', 'pay.a'),"
    " ('scope', 'b', 'gone.b'), ('domain', 'c', 'ship'), ('domain', 'd', 'pay');"
)
LEFT = "CREATE TABLE spec_events (position int); INSERT INTO spec_events VALUES (1);"
# What its file says of each check; `no_organization` and what is printed as commands is tried below.
SAID = {
    "other_decision": "audit_timeline_entries | 0e0e0e0e-0000-4000-8000-000000000001",
    "other_snapshot": "0e0e0e0e-0000-4000-8000-000000000001 | aaaaaaaa-0000-4000-8000-00000000000a | pay",
    "other_scope": "pay.a | aaaaaaaa-0000-4000-8000-00000000000b | pay",
    "partitions": "mandate.more | of | mandate.scopes",
}


def test_each_check_that_can_fail_has_its_file_and_the_file_is_right(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    target = database("v8")
    prepare(target, TENANTS, scope("pay.a", A), event("0001", A, scope="pay.a"))
    prepare(target, REPLICA + OLD + LEFT + "".join(BROKEN.values()))
    zero = {part.check for part in read(PRE_CHECKS) if isinstance(part, Statement) and part.expect == "zero"}
    with connect(target) as session, session.transaction():
        session.execute("SELECT 1")
        assert failed_checks(psql(target, PRE_CHECKS, environment=AT_ONCE).stdout) == zero
        assert f"pg_terminate_backend({session.pid})" in run(target, FIXES / "009_long_transactions.sql")
    assert {path.stem.removeprefix("009_") for path in FIXES.glob("009_*.sql")} == zero
    for check, said in SAID.items():
        assert said in run(target, FIXES / f"009_{check}.sql"), check

    diagnosed = mandate("diagnose", "009", "--dsn", target.conninfo, "--format", "json", cwd=tmp_path)
    findings = {each["check"]["id"]: each for each in json.loads(diagnosed.stdout)["findings"]}
    assert findings.keys() == zero - {"long_transactions"}
    for check, finding in findings.items():
        assert finding["fix"] == str(FIXES / f"009_{check}.sql")
        assert "What is wrong: " in finding["explanation"]
        assert "What this does: " in finding["explanation"]

    mended = run(target, FIXES / "009_no_organization.sql")
    changed, _, left = mended.partition("Left as they are")
    assert ["identity_map | scope a |" in changed, "identity_map | domain c |" in changed] == [True, True]
    assert [f"identity_map | {row} |" in left for row in ("scope b", "scope x", "domain d")] == [True] * 3
    for check in ("foreign_keys", "leftovers"):
        printed = run(target, FIXES / f"009_{check}.sql").splitlines()
        prepare(target, *(line.rpartition(" | ")[2] for line in printed))
        assert run(target, FIXES / f"009_{check}.sql") == ""
    with connect(target) as session:
        refused = "SELECT tgenabled FROM pg_trigger WHERE tgname = 'prevent_identity_map_mutation'"
        assert session.value(refused) == "O"
        assert session.value("SELECT position FROM public.spec_events") == 1
        assert session.value("SELECT count(*) FROM mandate_conductor.repairs") == 2
    assert failed_checks(run(target, PRE_CHECKS)) == {"no_organization", *SAID}
