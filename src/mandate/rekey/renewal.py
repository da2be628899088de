"""Views, functions and policies over columns that live on under another name: rewritten by PostgreSQL itself.

Empty tables with the old columns are made in schemas that nobody sees, the definitions over them, then their
columns are renamed: PostgreSQL writes the definitions with the new names, while what a view calls its own
columns stays. All of it is taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from mandate.errors import DatabaseError
from mandate.postgres.connection import Session, Verbatim, sql
from mandate.rekey import rewriting
from mandate.rekey.catalogue import Catalogue, Function, Policy, View
from mandate.rekey.model import Graph, NewTable
from mandate.rekey.rewriting import Place

_GONE = "mandate_gone_"


class _TakeBack(Exception):
    """Ends the transaction in which definitions are rewritten."""


def names(table: NewTable) -> dict[str, str]:
    """Old column -> the one new column that stands for it, under another name."""
    stay = {column.name for column in table.columns if column.source == column.name}
    found: dict[str, str] = {}
    for old, new in rewriting.successors(table).items():
        if len(new) == 1 and new[0] not in stay and new[0] not in found.values():
            found[old] = new[0]
    return found


def gone(table: NewTable) -> list[str]:
    """Old columns that nothing stands for, or several new ones."""
    known = names(table)
    return [name for name in rewriting.successors(table) if name not in known]


def renewed(session: Session, graph: Graph, kept: Catalogue) -> Catalogue:
    """`kept`, with what its views, functions and policies are over the new names. Changes nothing.

    What cannot be written anew stays as it is: it fails, with its name, when it is made over the new tables.
    """
    reading = [policy for policy in kept.policies if policy.reads]
    if not any(map(names, graph.tables)) or not (kept.views or kept.functions or reading):
        return kept
    try:
        with session.transaction():
            session.execute("SET LOCAL lock_timeout = '5s'")
            made = _Stubs(session, graph, kept).renewed()
            raise _TakeBack
    except _TakeBack:
        return made


@dataclass(frozen=True)
class _Stubs:
    """The tables, views, functions and policies once more, without rows."""

    session: Session
    graph: Graph
    kept: Catalogue

    @cached_property
    def places(self) -> dict[Place, Place]:
        """Own place -> place among the stubs: a schema for each schema, or names would meet."""
        own = [(table.old.schema, table.old.name) for table in self.graph.tables]
        own += [(view.schema, view.name) for view in self.kept.views]
        own += [(each.schema, each.table_name) for each in self.kept.policies if each.reads]
        schemas = sorted({schema for schema, _ in own})
        made = {each: f"mandate_names_{n}_{self.graph.spec.rekey.name}" for n, each in enumerate(schemas)}
        return {place: (made[place[0]], place[1]) for place in own}

    def renewed(self) -> Catalogue:
        for schema in sorted({schema for schema, _ in self.places.values()}):
            self.session.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        views = {(view.schema, view.name) for view in self.kept.views}
        for place in self.places:
            if place not in views:
                # With its keys: a query that groups by one may name the other columns.
                self.session.execute(
                    sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING INDEXES)").format(
                        self._there(place), sql.Identifier(*place)
                    )
                )
        made = {view.oid for view in self.kept.views if self._try(self._view(view))}
        made |= {each.oid for each in self.kept.functions if self._try(self._function(each))}
        policies = [self._policy(policy) for policy in self.kept.policies]
        self._rename(self.graph.tables)
        return replace(
            self.kept,
            policies=tuple(policies),
            views=tuple(self._renewed_view(v) if v.oid in made else v for v in self.kept.views),
            functions=tuple(self._renewed_function(f) if f.oid in made else f for f in self.kept.functions),
        )

    def _there(self, place: Place) -> sql.Identifier:
        return sql.Identifier(*self.places[place])

    def _try(self, statement: sql.Composed) -> bool:
        try:
            with self.session.transaction():
                self.session.execute(statement)
        except DatabaseError:
            return False
        return True

    def _rename(self, tables: Iterable[NewTable]) -> None:
        """First out of the way, then to their new names, which may be those of others before."""
        for table in tables:
            there = self._there((table.old.schema, table.old.name))
            new = names(table)
            for number, old in enumerate(rewriting.successors(table)):
                aside = f"{_GONE}{number}"
                self.session.execute(_renaming(there, old, aside))
                new |= {aside: new.pop(old)} if old in new else {}
            for aside, name in new.items():
                self.session.execute(_renaming(there, aside, name))

    def _back(self, text: str) -> str | None:
        """With the relations' own places; None where it needs a column that goes away."""
        done = rewriting.query(text, {there: own for own, there in self.places.items()})
        return None if _GONE in done else done

    # -- views and functions -------------------------------------------------------------------------

    def _view(self, view: View) -> sql.Composed:
        query = rewriting.query(view.definition, self.places)
        return sql.SQL("CREATE VIEW {} AS {}").format(self._there((view.schema, view.name)), Verbatim(query))

    def _renewed_view(self, view: View) -> View:
        name = self._there((view.schema, view.name)).as_string()
        text = self.session.value("SELECT pg_catalog.pg_get_viewdef(%s::text::regclass)", (name,))
        before = view.definition.rstrip("; \n")
        done = self._back(text)
        return view if done == before else replace(view, renewed=done)

    def _function(self, function: Function) -> sql.Composed:
        return sql.Composed([Verbatim(rewriting.query(function.definition, self.places))])

    def _renewed_function(self, function: Function) -> Function:
        text = self.session.value("SELECT pg_catalog.pg_get_functiondef(%s::bigint::oid)", (function.oid,))
        done = self._back(text)
        return function if done == function.definition.rstrip("; \n") else replace(function, renewed=done)

    # -- policies ------------------------------------------------------------------------------------

    def _policy(self, policy: Policy) -> Policy:
        """The columns of its own table keep their names here: rewriting.expression knows more of those."""
        others = [table for table in self.graph.tables if table.old.oid != policy.table]
        if not policy.reads or not any(map(names, others)):
            return policy
        made = policy
        try:
            with self.session.transaction():
                made = self._renewed_policy(policy, others)
                raise _TakeBack
        except (_TakeBack, DatabaseError):
            return made

    def _renewed_policy(self, policy: Policy, others: Iterable[NewTable]) -> Policy:
        there = self._there((policy.schema, policy.table_name))
        self.session.execute(
            sql.SQL("CREATE POLICY {} ON {} FOR {}{}{}").format(
                sql.Identifier(policy.name),
                there,
                Verbatim(policy.command),
                _clause(" USING ", policy.using, self.places),
                _clause(" WITH CHECK ", policy.with_check, self.places),
            )
        )
        self._rename(others)
        row = self.session.row(
            "SELECT pg_catalog.pg_get_expr(polqual, polrelid) AS using,"
            " pg_catalog.pg_get_expr(polwithcheck, polrelid) AS with_check FROM pg_catalog.pg_policy"
            " WHERE polname = %s AND polrelid = %s::text::regclass",
            (policy.name, there.as_string()),
        )
        assert row is not None, "it was made a moment ago"
        back = {place: own for own, place in self.places.items()}
        texts = {key: moved_expression(row[key], back) for key in ("using", "with_check")}
        if texts == {"using": policy.using, "with_check": policy.with_check} or _GONE in str(texts):
            return policy
        return replace(policy, renewed=(texts["using"], texts["with_check"]))


def _renaming(table: sql.Identifier, old: str, new: str) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
        table, sql.Identifier(old), sql.Identifier(new)
    )


def moved_expression(text: str | None, places: Mapping[Place, Place]) -> str | None:
    """An expression whose subqueries read relations in other places."""
    if text is None:
        return None
    return rewriting.query(f"SELECT ({text})", places).removeprefix("SELECT (").removesuffix(")")


def moved(policy: Policy, places: Mapping[Place, Place]) -> Policy:
    """A policy whose subqueries read relations in other places."""
    using, check = (moved_expression(text, places) for text in (policy.using, policy.with_check))
    return replace(policy, using=using, with_check=check)


def _clause(keyword: str, text: str | None, places: Mapping[Place, Place]) -> sql.Composable:
    moved = moved_expression(text, places)
    return sql.SQL("") if moved is None else Verbatim(f"{keyword}({moved})")


def policies_to_build(kept: Catalogue, oid: int) -> Iterator[Policy]:
    """Policies that can be made once all new tables are there: they read columns that the old ones lack."""
    return (policy for policy in kept.policies if policy.table == oid and policy.renewed is not None)
