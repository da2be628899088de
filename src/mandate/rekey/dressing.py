"""Owner, grants and comments of one object, as another has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import LiteralString

from mandate.postgres.connection import Verbatim, sql
from mandate.rekey.catalogue import Grant

Composable = sql.Composable

# Where the catalogue keeps who may do what: table, column, and the type that looks a name up.
_RELATION = ("pg_class", "relacl", "regclass")
_ROUTINE = ("pg_proc", "proacl", "regprocedure")

_CLEAR = """
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END
        FROM pg_catalog.{catalogue} AS o
        CROSS JOIN LATERAL pg_catalog.aclexplode(o.{acl}) AS a
        LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
        WHERE o.oid = {name}::pg_catalog.{alias}
    LOOP
        EXECUTE {target} || grantee;
    END LOOP;
END
"""


def grantee(name: str | None) -> Composable:
    """A role as GRANT names it; None is PUBLIC."""
    return sql.SQL("PUBLIC") if name is None else sql.Identifier(name)


def comment(kind: LiteralString, what: Composable, text: str | None) -> Iterator[sql.Composed]:
    """COMMENT ON, where there is one."""
    if text is not None:
        yield sql.SQL("COMMENT ON {} {} IS {}").format(sql.SQL(kind), what, sql.Literal(text))


def comment_on(kind: LiteralString, name: str, on: Composable, text: str | None) -> Iterator[sql.Composed]:
    """COMMENT ON CONSTRAINT name ON table, and its like."""
    what = sql.SQL("{} ON {}").format(sql.Identifier(name), on)
    yield from comment(kind, what, text)


def own(kind: LiteralString, what: Composable, owner: str) -> sql.Composed:
    """ALTER ... OWNER TO."""
    return sql.SQL("ALTER {} {} OWNER TO {}").format(sql.SQL(kind), what, sql.Identifier(owner))


def grant(
    kind: LiteralString, what: Composable, owner: str, grants: Sequence[Grant] | None
) -> Iterator[sql.Composed]:
    """Exactly these privileges on what has none; None: the owner's defaults."""
    target = sql.SQL("{} {}").format(sql.SQL(kind), what)
    if grants is None:
        yield sql.SQL("GRANT ALL ON {} TO {}").format(target, sql.Identifier(owner))
        return
    yield sql.SQL("REVOKE ALL ON {} FROM {}").format(target, sql.Identifier(owner))
    for each in grants:
        yield _grant(Verbatim(each.privilege), target, each)


def grant_column(what: sql.Identifier, column: str, grants: Sequence[Grant] | None) -> Iterator[sql.Composed]:
    """Privileges on one column."""
    for each in grants or ():
        privilege = sql.SQL("{} ({})").format(Verbatim(each.privilege), sql.Identifier(column))
        yield _grant(privilege, sql.SQL("TABLE {}").format(what), each)


def _grant(privilege: Composable, target: Composable, each: Grant) -> sql.Composed:
    option = sql.SQL(" WITH GRANT OPTION" if each.grantable else "")
    return sql.SQL("GRANT {} ON {} TO {}{}").format(privilege, target, grantee(each.grantee), option)


def clear_grants(kind: LiteralString, what: Composable) -> sql.Composed:
    """Take back what default privileges gave to a new table, view, sequence or routine."""
    catalogue, acl, alias = _ROUTINE if kind == "ROUTINE" else _RELATION
    body = sql.SQL(_CLEAR).format(
        catalogue=sql.Identifier(catalogue),
        acl=sql.Identifier(acl),
        alias=sql.Identifier(alias),
        name=sql.Literal(what.as_string()),
        target=sql.Literal(f"REVOKE ALL ON {kind} {what.as_string()} FROM "),
    )
    return sql.SQL("DO {}").format(sql.Literal(body.as_string()))


def options(items: Sequence[str], prefix: str | None = None) -> Iterator[sql.Composed]:
    """Storage parameters as pg_class writes them ("name=value"), for WITH (...)."""
    for item in items:
        name, _, value = item.partition("=")
        label = sql.Identifier(name) if prefix is None else sql.Identifier(prefix, name)
        yield sql.SQL("{} = {}").format(label, sql.Literal(value))


def with_options(*lists: Iterator[sql.Composed]) -> Composable:
    """WITH (...), or nothing."""
    found = [each for items in lists for each in items]
    return sql.SQL(" WITH ({})").format(sql.SQL(", ").join(found)) if found else sql.SQL("")


def tablespace(name: str | None) -> Composable:
    """TABLESPACE ..., or nothing."""
    return sql.SQL("") if name is None else sql.SQL(" TABLESPACE {}").format(sql.Identifier(name))


def using(method: str | None) -> Composable:
    """USING table access method."""
    return sql.SQL("") if method is None else sql.SQL(" USING {}").format(sql.Identifier(method))
