"""Constraint probes: the guide's inserts and their like, each undone, each with a required answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal
from uuid import uuid4

from mandate.errors import DatabaseError, LockNotAvailable
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.progress import Reporter

EXAMPLE_ORGANIZATION = "00000000-0000-0000-0000-000000000001"
# What append-only triggers raise: version 8's restrict_violation, older ones a plain RAISE.
REFUSED_BY_TRIGGER = ("23001", "P0001")
# A probe that waits for a lock makes those behind it wait: briefly, and then again.
_LOCK_TIMEOUT = "200ms"
_LOCK_TRIES = 12
_LOCK_PAUSE_SECONDS = 0.2

TABLES = (
    "organizations",
    "domains",
    "scopes",
    "policy_snapshots",
    "decision_events",
    "verdict_events",
    "audit_timeline_entries",
    "mandate_specs",
    "spec_events",
    "migration_log",
    "identity_map",
)


@dataclass(frozen=True)
class Expect:
    """What must come back: nothing (accepted), or one of the SQLSTATEs, with a constraint or words."""

    sqlstates: tuple[str, ...] = ()
    constraint: str | None = None
    message: str | None = None

    def __str__(self) -> str:
        if not self.sqlstates:
            return "accepted"
        what = self.constraint or self.message or ""
        return f"refused {' or '.join(self.sqlstates)} {what}".rstrip()


@dataclass(frozen=True)
class Probe:
    """One statement and the answer it must get. `keep` leaves it in place for the probes after it."""

    name: str
    statement: sql.Composed
    expect: Expect
    keep: bool = False


@dataclass(frozen=True)
class Result:
    """What a probe got."""

    name: str
    sql: str
    expected: str
    got: str
    sqlstate: str | None
    constraint: str | None
    message: str
    status: Literal["pass", "fail", "error"]


# What a migration tries beyond what is tried after each: with the values that statements name.
Further = Callable[[Session, Mapping[str, Any]], Iterator[Probe]]


def run(target: Target, application_name: str, reporter: Reporter, further: Further) -> dict[str, Any]:
    """Run every probe in one transaction that is rolled back; evidence {probes, rows_left, consumed}."""
    with connect(
        target,
        application_name=application_name,
        settings={"lock_timeout": _LOCK_TIMEOUT, "search_path": "mandate"},
    ) as session:
        names, sequences = _names(session), _sequences(session)
        probes = [*_probes(names), *further(session, names), *_mutation_probes(session)]
        before = _rows_of(session, names)
        results = _in_one_transaction(session, probes, reporter)
        left = _rows_of(session, names) - before
        consumed = [
            f"{name}: {sequences.get(name)} -> {value}"
            for name, value in _sequences(session).items()
            if value != sequences.get(name)
        ]
    return {"probes": [asdict(result) for result in results], "rows_left": left, "consumed": consumed}


def results(evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The probes of an evidence."""
    return list(evidence["probes"])


def consumed(evidence: Mapping[str, Any]) -> list[str]:
    """What the probes used up and could not give back."""
    return list(evidence["consumed"])


def problems(evidence: Mapping[str, Any]) -> list[str]:
    """What is wrong in an evidence: answers that must not be, rows left behind, nothing tried."""
    bad = [f"{item['name']} (got: {item['got']})" for item in results(evidence) if item["status"] != "pass"]
    if evidence["rows_left"]:
        bad.append(f"{evidence['rows_left']} rows were left behind")
    return bad if results(evidence) else ["nothing was tried"]


def passed(evidence: Mapping[str, Any]) -> bool:
    """Every probe answered as it must and nothing was left behind."""
    return not problems(evidence)


class _Undo(Exception):
    """Leaves a transaction block without committing it."""


def _in_one_transaction(session: Session, probes: list[Probe], reporter: Reporter) -> list[Result]:
    results: list[Result] = []
    with (
        reporter.task("probe", total=len(probes), unit="probes") as task,
        suppress(_Undo),
        session.transaction(),
    ):
        for done, probe in enumerate(probes, start=1):
            results.append(_insist(session, probe))
            task.update(done)
        raise _Undo
    return results


def _insist(session: Session, probe: Probe) -> Result:
    """The probe's answer; tried again while somebody holds a lock that it needs."""
    for _ in range(_LOCK_TRIES - 1):
        result = _try(session, probe)
        if result.status != "error":
            return result
        time.sleep(_LOCK_PAUSE_SECONDS)
    return _try(session, probe)


def _try(session: Session, probe: Probe) -> Result:
    text = probe.statement.as_string(session.connection)
    try:
        with suppress(_Undo), session.transaction():
            session.execute(probe.statement)
            session.execute("SET CONSTRAINTS ALL IMMEDIATE")
            if not probe.keep:
                raise _Undo
    except LockNotAvailable as error:
        return _result(probe, text, "no answer: " + error.message, error, "error")
    except DatabaseError as error:
        return _refused(probe, text, error)
    status: Literal["pass", "fail"] = "pass" if not probe.expect.sqlstates else "fail"
    return _result(probe, text, "accepted", None, status)


def _refused(probe: Probe, text: str, error: DatabaseError) -> Result:
    expect = probe.expect
    right = (
        error.sqlstate in expect.sqlstates
        and (expect.constraint is None or error.fields.get("constraint") == expect.constraint)
        and (expect.message is None or expect.message in error.message)
    )
    what = error.fields.get("constraint") or error.message
    return _result(probe, text, f"refused {error.sqlstate} {what}", error, "pass" if right else "fail")


def _result(
    probe: Probe,
    text: str,
    got: str,
    error: DatabaseError | None,
    status: Literal["pass", "fail", "error"],
) -> Result:
    return Result(
        name=probe.name,
        sql=text,
        expected=str(probe.expect),
        got=got,
        sqlstate=error.sqlstate if error else None,
        constraint=error.fields.get("constraint") if error else None,
        message=error.message if error else "",
        status=status,
    )


def _probes(names: Mapping[str, Any]) -> Iterator[Probe]:
    if not names["organization_exists"]:
        yield statement(
            "an organization for the guide's inserts",
            "INSERT INTO organizations (organization_id, name) VALUES ({organization}, {organization_name})",
            names,
            Expect(),
            keep=True,
        )
    yield from _domain_probes(names)
    yield from _scope_probes(names)
    yield from _reference_probes(names)


def _names(session: Session) -> Mapping[str, Any]:
    """Values for the inserts; the guide's own unless somebody has left them in the database."""
    organization = session.value(
        "SELECT EXISTS (SELECT FROM organizations WHERE organization_id = %s)", (EXAMPLE_ORGANIZATION,)
    )
    taken = session.value("SELECT EXISTS (SELECT FROM domains WHERE domain = 'test-domain')")
    scope_taken = session.value(
        "SELECT EXISTS (SELECT FROM scopes WHERE starts_with(scope_id, 'test-domain.'))"
    )
    domain = f"test-domain-{session.pid}" if taken or scope_taken else "test-domain"
    return {
        "organization": EXAMPLE_ORGANIZATION,
        "organization_name": f"mandate-probe-{session.pid}",
        "organization_exists": organization,
        "domain": domain,
        "upper": domain.upper(),
        "scope": f"{domain}.prod.service.agent",
        "wrong": "wrong-domain.prod.service.agent",
        "unknown": f"no-such-domain-{session.pid}",
        "other": str(uuid4()),
        "other_name": f"mandate-probe-other-{session.pid}",
    }


def statement(name: str, text: Any, names: Mapping[str, Any], expect: Expect, *, keep: bool = False) -> Probe:
    """A probe whose text names values, each quoted."""
    values = {key: sql.Literal(value) for key, value in names.items()}
    return Probe(name, sql.SQL(text).format(**values), expect, keep)


def _domain_probes(names: Mapping[str, Any]) -> Iterator[Probe]:
    insert = "INSERT INTO domains (organization_id, domain) VALUES ({organization}, {domain})"
    yield statement("guide 7: a slug is accepted", insert, names, Expect(), keep=True)
    yield statement(
        "guide 7: upper case is refused",
        "INSERT INTO domains (organization_id, domain) VALUES ({organization}, {upper})",
        names,
        Expect(("23514",), constraint="domains_domain_slug_format"),
    )
    yield statement(
        "the same domain twice is refused", insert, names, Expect(("23505",), constraint="domains_pkey")
    )


def _scope_probes(names: Mapping[str, Any]) -> Iterator[Probe]:
    yield statement(
        "guide 8: a scope with its domain's prefix is accepted",
        "INSERT INTO scopes (scope_id, domain, organization_id, owning_team)"
        " VALUES ({scope}, {domain}, {organization}, 'Team')",
        names,
        Expect(),
        keep=True,
    )
    yield statement(
        "guide 8: a scope without its domain's prefix is refused",
        "INSERT INTO scopes (scope_id, domain, organization_id, owning_team)"
        " VALUES ({wrong}, {domain}, {organization}, 'Team')",
        names,
        Expect(
            ("23514", "P0001"),
            message=f"GOVERNANCE VIOLATION: scope_id '{names['wrong']}' does not embed domain prefix"
            f" '{names['domain']}'",
        ),
    )


def _reference_probes(names: Mapping[str, Any]) -> Iterator[Probe]:
    yield statement(
        "a policy snapshot of an unknown domain is refused",
        "INSERT INTO policy_snapshots (snapshot_id, version, policies, organization_id, domain)"
        " VALUES (gen_random_uuid(), 1, '[]', {organization}, {unknown})",
        names,
        Expect(("23503",), constraint="policy_snapshots_organization_domain_fkey"),
    )
    yield statement(
        "a decision without a domain is refused",
        "INSERT INTO decision_events (decision_id, intent, stage, actor, target, context, scope, timestamp,"
        " organization_id, domain) VALUES (gen_random_uuid(), 'probe', 'proposed', 'probe', 'probe', '{{}}',"
        " '{{}}', now(), {organization}, NULL)",
        names,
        Expect(("23502",)),
    )
    yield statement(
        "a decision of an unknown domain is refused",
        "INSERT INTO decision_events (decision_id, intent, stage, actor, target, context, scope, timestamp,"
        " organization_id, domain) VALUES (gen_random_uuid(), 'probe', 'proposed', 'probe', 'probe', '{{}}',"
        " '{{}}', now(), {organization}, {unknown})",
        names,
        Expect(("23503",), constraint="decision_events_organization_domain_fkey"),
    )


def _mutation_probes(session: Session) -> Iterator[Probe]:
    """UPDATE, DELETE and TRUNCATE on every table that has rows to try them on."""
    for table in TABLES:
        relation = sql.Identifier("mandate", table)
        column = session.value(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('mandate.' || quote_ident(%s))"
            " AND attnum > 0 AND NOT attisdropped AND attidentity = '' AND attgenerated = ''"
            " ORDER BY attnum LIMIT 1",
            (table,),
        )
        if column is None:
            continue
        statements = [("TRUNCATE", sql.SQL("TRUNCATE {} CASCADE").format(relation))]
        if session.value(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(relation)):
            statements += [
                (
                    "UPDATE",
                    sql.SQL("UPDATE {t} SET {c} = {c} WHERE ctid = (SELECT ctid FROM {t} LIMIT 1)").format(
                        t=relation, c=sql.Identifier(column)
                    ),
                ),
                (
                    "DELETE",
                    sql.SQL("DELETE FROM {t} WHERE ctid = (SELECT ctid FROM {t} LIMIT 1)").format(t=relation),
                ),
            ]
        for verb, statement in statements:
            yield Probe(f"{verb} on {table} is refused", statement, Expect(REFUSED_BY_TRIGGER))


def _rows_of(session: Session, names: Mapping[str, Any]) -> int:
    """Rows that carry the probes' names; others may be writing rows of their own."""
    count: int = session.value(
        "SELECT (SELECT count(*) FROM organizations WHERE name IN (%(organization_name)s, %(other_name)s))"
        " + (SELECT count(*) FROM domains WHERE domain IN (%(domain)s, %(upper)s, %(unknown)s))"
        " + (SELECT count(*) FROM scopes WHERE scope_id IN (%(scope)s, %(wrong)s))"
        " + (SELECT count(*) FROM policy_snapshots WHERE domain IN (%(domain)s, %(unknown)s))"
        " + (SELECT count(*) FROM decision_events"
        " WHERE actor = 'probe' AND domain IN (%(domain)s, %(unknown)s))",
        names,
    )
    return count


def _sequences(session: Session) -> dict[str, Any]:
    rows = session.rows(
        "SELECT schemaname || '.' || sequencename AS name, last_value FROM pg_sequences"
        " WHERE schemaname = 'mandate'"
    )
    return {row["name"]: row["last_value"] for row in rows}
