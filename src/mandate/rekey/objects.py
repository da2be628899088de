"""What else changes places in the moment of the swap, both ways: everything that belongs to the tables.

Forward, the old tables were just moved to the retained schema and the shadows to where they were; back, the
new tables were moved to the shadow schema and the retained ones returned. What a client could do before it
can do after; the side that was moved away can be kept in step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from mandate.postgres.connection import Session, Verbatim, sql
from mandate.rekey import catalogue, dressing, foreign_keys, rewriting, routines, rules, shadow, views
from mandate.rekey.altering import Alteration, merged
from mandate.rekey.catalogue import Attribute, Catalogue, ForeignKey, OwnedSequence, Trigger
from mandate.rekey.direction import Direction
from mandate.rekey.model import Graph, NewColumn, NewTable

# So many answers may be waited for one by one.
_FEW = 20
_ENABLE = {
    "O": "ENABLE TRIGGER",
    "D": "DISABLE TRIGGER",
    "R": "ENABLE REPLICA TRIGGER",
    "A": "ENABLE ALWAYS TRIGGER",
}


def to_lock(session: Session, graph: Graph) -> list[sql.Composed]:
    """Statements that lock everything a cutover touches, to be run first, in this order.

    Views before the tables that they read, as a query does; other tables that the change's ones refer to
    before them, those that refer to them after, as writers do. Any other order is a deadlock with a
    client under load. Takes no time besides waiting.
    """
    kept = catalogue.read(session, graph)
    tables = _tables_to_lock(graph, kept)
    locks = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.SQL(", ").join(tables))
    numbers = list(_lock_sequences(graph, kept))
    return [*_at_once(list(views.lock(kept))), locks, *_at_once(numbers)]


def _at_once(statements: Sequence[sql.Composed]) -> Iterator[sql.Composed]:
    """As one statement: a limit on its time is one on them all, and there is one answer to wait for."""
    if len(statements) < _FEW:
        yield from statements
    else:
        text = sql.SQL("; ").join(statements).as_string()
        body = sql.SQL("BEGIN EXECUTE {}; END").format(sql.Literal(text))
        yield sql.SQL("DO {}").format(sql.Literal(body.as_string()))


def relations_to_lock(session: Session, graph: Graph) -> list[sql.Identifier]:
    """Their names, to say who holds them."""
    kept = catalogue.read(session, graph)
    read = [sql.Identifier(view.schema, view.name) for view in kept.views]
    read += [sql.Identifier(rule.schema, rule.table_name) for rule in rules.outside(kept) if rule.of_view]
    numbers = [
        sql.Identifier(each.schema, each.name) for table in graph.tables for each in _owned(kept, table)
    ]
    return [*read, *_tables_to_lock(graph, kept), *numbers]


def _tables_to_lock(graph: Graph, kept: Catalogue) -> list[sql.Identifier]:
    before, after = foreign_keys.outside(graph, kept)
    inside = [table.old.identifier for table in graph.tables]
    looking = [sql.Identifier(each.schema, each.table_name) for each in kept.policies if each.reads]
    ruled = [sql.Identifier(rule.schema, rule.table_name) for rule in rules.outside(kept) if not rule.of_view]
    return [*before, *inside, *after, *looking, *ruled]


def _owned(kept: Catalogue, table: NewTable) -> list[OwnedSequence]:
    return [each for column in kept.columns_of(table.old.oid).values() for each in column.sequences]


def _lock_sequences(graph: Graph, kept: Catalogue) -> Iterator[sql.Composed]:
    """A client that took a number before it waits for the table would be in the way of the swap later.

    LOCK TABLE takes no sequence; a move of their table to where it is moves nothing and locks them.
    """
    for table in graph.tables:
        if _owned(kept, table):
            yield sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
                table.old.identifier, sql.Identifier(table.old.schema)
            )


def at_cutover(session: Session, graph: Graph, direction: Direction) -> list[sql.Composed]:
    """Statements for inside the cutover, right after the tables changed schemas. Reads what was kept only."""
    return list(merged(_Swap(graph, catalogue.read(session, graph), direction).statements()))


def proofs_after(session: Session, graph: Graph, direction: Direction) -> list[list[sql.Composed]]:
    """Proofs of foreign keys for after the cutover, by table; each statement by itself. Safe to repeat."""
    kept = catalogue.read(session, graph)
    return foreign_keys.to_validate(graph, kept, _Swap(graph, kept, direction).arriving_keys)


def refreshed_after(session: Session, graph: Graph) -> list[sql.Composed]:
    """Statements that fill views after the cutover, each by itself. Safe to repeat."""
    made: list[sql.Composed] = []
    for view in catalogue.read(session, graph).views:
        if view.materialized and view.populated:
            unique = _has_unique_index(session, view.schema, view.name)
            made += views.refresh(sql.Identifier(view.schema, view.name), concurrently=unique)
    return made


def _has_unique_index(session: Session, schema: str, name: str) -> bool:
    found = session.value(
        "SELECT EXISTS (SELECT FROM pg_index i"
        " WHERE i.indrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))"
        " AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL)",
        (schema, name),
    )
    return bool(found)


def is_kept(session: Session, graph: Graph) -> bool:
    """Whether what was written down at the beginning is still there: the change has not got to its end."""
    return catalogue.is_kept(session, graph)


def drift(session: Session, graph: Graph) -> list[str]:
    """What somebody changed on the old tables since the change began, in words: it would be lost."""
    before, now = catalogue.read(session, graph), catalogue.live(session, graph)
    return catalogue.differences(before, now, graph.spec.shadow_schema)


@dataclass(frozen=True)
class _Swap:
    """One direction's statements. `aside`: where the leaving tables are now."""

    graph: Graph
    kept: Catalogue
    direction: Direction

    @property
    def aside(self) -> str:
        """What stands for the schemas where the leaving ones are."""
        spec = self.graph.spec
        return spec.retained_schema if self.direction.forward else spec.shadow_schema

    @property
    def back(self) -> str:
        """And where the arriving ones were."""
        spec = self.graph.spec
        return spec.shadow_schema if self.direction.forward else spec.retained_schema

    def _leaving(self, schema: str, name: str) -> sql.Identifier:
        return sql.Identifier(self.graph.aside(self.aside, schema), name)

    @cached_property
    def _new_keys(self) -> list[ForeignKey]:
        return foreign_keys.renewed(self.graph, self.kept)

    @property
    def arriving_keys(self) -> list[ForeignKey]:
        """Foreign keys of the tables that clients will use, their own and those of others to them."""
        return self._new_keys if self.direction.forward else list(self.kept.foreign_keys)

    @property
    def leaving_keys(self) -> list[ForeignKey]:
        return list(self.kept.foreign_keys) if self.direction.forward else self._new_keys

    def statements(self) -> Iterator[sql.Composed]:
        """All of them, in order."""
        # A table whose deferred checks are still to come cannot be altered.
        yield sql.SQL("SET CONSTRAINTS ALL IMMEDIATE").format()
        yield from shadow.schemas(self.graph, self.kept, self.aside)
        yield from views.swap(self.graph, self.kept, self.aside, self.back)
        yield from foreign_keys.leave(
            self.graph, self.kept, self.leaving_keys, self.aside, lags=self.direction.forward
        )
        yield from foreign_keys.arrive(self.graph, self.kept, self.arriving_keys)
        for table in self.graph.tables:
            yield from self._triggers(table)
        for table in self.graph.tables:
            yield from self._sequences(table)
            yield from self._statistics(table)
            yield from self._publications(table)
            if self.direction.forward:
                yield from self._unproven(table)
        yield from self._policies()
        yield from rules.swap(self.graph, self.kept, self.aside)
        yield from routines.swap(self.graph, self.kept, self.aside, forward=self.direction.forward)

    # -- sequences -----------------------------------------------------------------------------------

    def _sequences(self, table: NewTable) -> Iterator[sql.Composed]:
        for attribute in self.kept.columns_of(table.old.oid).values():
            column = heir(table, attribute)
            if attribute.identity:
                if column is not None and column.type in shadow.INTEGERS:
                    yield from self._carry(table, attribute.sequences[0])
                continue
            for sequence in attribute.sequences:
                if column is not None or sequence.used_elsewhere:
                    yield from self._hand_over(table, attribute, column, sequence)

    def _carry(self, table: NewTable, sequence: OwnedSequence) -> Iterator[sql.Composed]:
        """An identity's sequence cannot be given away: the arriving one goes on where the other stopped."""
        arriving = sql.Identifier(table.old.schema, sequence.name).as_string()
        yield sql.SQL(
            "SELECT pg_catalog.setval({}::pg_catalog.regclass, last_value, is_called) FROM {}"
        ).format(sql.Literal(arriving), self._leaving(sequence.schema, sequence.name))

    def _hand_over(
        self, table: NewTable, attribute: Attribute, column: NewColumn | None, sequence: OwnedSequence
    ) -> Iterator[sql.Composed]:
        """A serial column's sequence stays the same object, so that nobody is given a number twice.

        It went aside with the table that owned it, unless nobody did; one whose column has no heir belongs
        to nobody while others use it.
        """
        old_name = attribute.name
        new_name = None if column is None else column.name
        leaver, heir_ = (old_name, new_name) if self.direction.forward else (new_name, old_name)
        there = sql.Identifier(sequence.schema, sequence.name)
        if leaver is not None:
            moved = self._leaving(sequence.schema, sequence.name)
            yield sql.SQL("ALTER SEQUENCE {} OWNED BY NONE").format(moved)
            yield sql.SQL("ALTER SEQUENCE {} SET SCHEMA {}").format(moved, sql.Identifier(sequence.schema))
        if column is not None and sequence.type == attribute.type and column.type in shadow.INTEGERS:
            type_ = column.type if self.direction.forward else attribute.type
            if column.type != attribute.type:
                yield sql.SQL("ALTER SEQUENCE {} AS {}").format(there, Verbatim(type_))
        if heir_ is not None:
            owner = sql.Identifier(table.old.schema, table.old.name, heir_)
            yield sql.SQL("ALTER SEQUENCE {} OWNED BY {}").format(there, owner)

    # -- the rest ------------------------------------------------------------------------------------

    def _statistics(self, table: NewTable) -> Iterator[sql.Composed]:
        """Statistics objects do not move with their table."""
        for each in catalogue.of(self.kept.statistics, table.old.oid):
            what = f"statistics object {each.name}"
            place = shadow.place(self.graph, table)
            has_new = rewriting.statistics(table, each.definition, place, place[0], what) is not None
            if has_new or self.direction.forward:
                yield _move_statistics(each.schema, each.name, self.graph.aside(self.aside, each.schema))
            if has_new or not self.direction.forward:
                yield _move_statistics(self.graph.aside(self.back, each.schema), each.name, each.schema)

    def _triggers(self, table: NewTable) -> Iterator[sql.Composed]:
        """Off where catch-up writes, as they were where clients do."""
        leaving = self._leaving(table.old.schema, table.old.name)
        for trigger in catalogue.of(self.kept.triggers, table.old.oid):
            yield _enable(leaving, trigger, "D")
            yield _enable(table.old.identifier, trigger, trigger.enabled)

    def _publications(self, table: NewTable) -> Iterator[sql.Composed]:
        for each in catalogue.of(self.kept.publications, table.old.oid):
            columns, text = each.columns, each.filter
            if self.direction.forward:
                changed = rewriting.successors(table)
                columns = None if columns is None else rewriting.renamed(columns, changed)
                what = f"publication {each.name} of {table}"
                text = None if text is None else rewriting.expression(table, text, what)
            name = sql.Identifier(each.name)
            leaving = self._leaving(table.old.schema, table.old.name)
            yield sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(name, leaving)
            yield sql.SQL("ALTER PUBLICATION {} ADD TABLE {}{}{}").format(
                name,
                table.old.identifier,
                sql.SQL("")
                if columns is None
                else sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))),
                sql.SQL("") if text is None else sql.SQL(" WHERE ({})").format(Verbatim(text)),
            )

    def _unproven(self, table: NewTable) -> Iterator[sql.Composed]:
        """Constraints that are not valid: rows that break them had to get in first."""
        at = table.old.identifier
        for check in catalogue.of(self.kept.checks, table.old.oid):
            if not check.valid and check.enforced:
                text = rewriting.expression(table, check.expression, f"check {check.name} of {table}")
                yield sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({}){} NOT VALID").format(
                    at,
                    sql.Identifier(check.name),
                    Verbatim(text),
                    sql.SQL(" NO INHERIT" if check.no_inherit else ""),
                )
                yield from dressing.comment_on("CONSTRAINT", check.name, at, check.comment)
        names = {column.name for column in table.columns}
        for attribute in self.kept.columns_of(table.old.oid).values():
            constraint = attribute.not_null
            if constraint is not None and not constraint.valid and attribute.name in names:
                yield sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} NOT NULL {} NOT VALID").format(
                    at, sql.Identifier(constraint.name), sql.Identifier(attribute.name)
                )
                yield from dressing.comment_on("CONSTRAINT", constraint.name, at, constraint.comment)

    def _policies(self) -> Iterator[sql.Composed]:
        """A policy that looks into a table holds on to it by number: bind it to what the name means now."""
        for policy in self.kept.policies:
            if policy.reads:
                table = next((each for each in self.graph.tables if each.old.oid == policy.table), None)
                there = sql.Identifier(policy.schema, policy.table_name)
                if self.direction.forward:
                    yield shadow.alter_policy(table, policy.after, there)
                else:
                    yield shadow.alter_policy(None, policy, there)


def heir(table: NewTable, attribute: Attribute) -> NewColumn | None:
    """The new column that goes on with an old one's numbers."""
    found = [
        column
        for column in table.columns
        if shadow.origin(table, column) == attribute.name
        and (column.source is not None or shadow.converted(table, column) is not None)
    ]
    return found[0] if len(found) == 1 else None


def _move_statistics(schema: str, name: str, to: str) -> sql.Composed:
    return sql.SQL("ALTER STATISTICS {} SET SCHEMA {}").format(
        sql.Identifier(schema, name), sql.Identifier(to)
    )


def _enable(table: sql.Identifier, trigger: Trigger, how: str) -> sql.Composed:
    return Alteration(table, sql.SQL("{} {}").format(sql.SQL(_ENABLE[how]), sql.Identifier(trigger.name)))
