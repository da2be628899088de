"""What each example's rows mean in the old and in the new schema."""

from __future__ import annotations

from collections.abc import Mapping

from tests.rekeying import Example

from mandate.postgres.connection import Session, sql

# What rows mean, whatever the keys are: the old and the new schema give the same, each on its search path.
MEANING: Mapping[str, tuple[tuple[bytes, bytes], ...]] = {
    "integers": tuple(
        (query, query)
        for query in (
            b"SELECT o.id, c.name, trunc(o.amount)::text FROM orders o"
            b" LEFT JOIN customers c ON c.id = o.customer_id",
            b"SELECT id, name, email FROM customers",
            b"SELECT id, follows, amount, doubled FROM orders",
            b"SELECT order_id, line, note FROM lines",
        )
    ),
    "names": (
        (
            b"SELECT e.id, s.name, e.said FROM events e LEFT JOIN scopes s USING (scope_id)",
            b"SELECT id, replace(scope_id, 'scope.', ''), said FROM events",
        ),
        (
            b"SELECT 'scope.' || name AS scope_id, name, note FROM scopes",
            b"SELECT scope_id, name, note FROM scopes",
        ),
        (
            b"SELECT 'scope.' || s.name AS scope_id, g.who FROM grants g JOIN scopes s USING (scope_id)",
            b"SELECT scope_id, who FROM grants",
        ),
    ),
    "composite": (
        (
            b"SELECT d.id, m.name::text, d.said FROM decisions d LEFT JOIN domains m USING (domain_id)",
            b"SELECT id, domain, said FROM decisions",
        ),
        (
            b"SELECT d.id, d.organization_id FROM decisions d",
            b"SELECT d.id, d.organization_id FROM decisions d",
        ),
        (
            b"SELECT d.organization_id, d.name::text AS domain, p.organization_id AS po, p.name::text AS pd"
            b" FROM domains d LEFT JOIN domains p ON p.domain_id = d.parent_id",
            b"SELECT organization_id, domain, parent_organization_id AS po, parent_domain AS pd FROM domains",
        ),
        (
            b"SELECT d.organization_id, d.name::text AS domain, v.number, v.decision_id"
            b" FROM verdicts v JOIN domains d USING (domain_id)",
            b"SELECT organization_id, domain, number, decision_id FROM verdicts",
        ),
        (
            b"SELECT t.id, d.organization_id, d.name::text AS domain, t.number, t.at"
            b" FROM timeline t LEFT JOIN domains d USING (domain_id)",
            b"SELECT id, organization_id, domain, number, at FROM timeline",
        ),
    ),
}


def meaning(session: Session, example: Example, schema: str, *, new: bool) -> list[list[tuple[str, ...]]]:
    """The rows of each query, in order, as text."""
    with session.transaction():
        session.execute(sql.SQL("SET LOCAL search_path = {}, pg_catalog").format(sql.Identifier(schema)))
        found = [session.rows(queries[new]) for queries in MEANING[example.name]]
    return [sorted(tuple(map(str, row.values())) for row in rows) for rows in found]
