"""The new tables, bare: columns as they will be, and everything that belongs to a table but no index yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mandate.postgres.connection import Session, Verbatim, sql
from mandate.rekey import catalogue, dressing, expressions, renewal, rewriting
from mandate.rekey.catalogue import Attribute, Catalogue, OwnedSequence, Policy, Relation, View
from mandate.rekey.model import Graph, Group, NewColumn, NewTable

Composable = sql.Composable

# Largest value by type; a sequence that ends there ends at its new type's.
_LARGEST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
_AUTOVACUUM = "autovacuum_enabled="
INTEGERS = frozenset(_LARGEST)


def create(session: Session, graph: Graph) -> None:
    """Create every shadow that is not there yet, each wholly or not at all. Safe to repeat."""
    kept = catalogue.keep(session, graph, renewal.renewed)
    create_schemas(session, graph, kept)
    for table in graph.tables:
        with session.transaction():
            if not exists(session, *place(graph, table)):
                create_table(session, graph, kept, table)


def exists(session: Session, schema: str, name: str) -> bool:
    """Whether there is such a relation."""
    return bool(
        session.value("SELECT to_regclass(format('%%I.%%I', %s::text, %s::text)) IS NOT NULL", (schema, name))
    )


def create_schemas(session: Session, graph: Graph, kept: Catalogue) -> None:
    """The shadows' schemas."""
    with session.transaction():
        for statement in schemas(graph, kept, graph.spec.shadow_schema):
            session.execute(statement)


def schemas(graph: Graph, kept: Catalogue, base: str) -> Iterator[sql.Composed]:
    """Make the schemas of the engine that `base` stands for, and let the tables' owners in.

    Foreign keys are checked as the owner of a table.
    """
    items: list[Relation | View] = [*kept.tables, *kept.views]
    own = {item.schema for item in items} | {each.schema for each in kept.statistics}
    for schema in sorted({graph.aside(base, schema) for schema in own}):
        yield sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema))
        for owner in sorted({item.owner for item in items}):
            yield sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(
                sql.Identifier(schema), sql.Identifier(owner)
            )


def place(graph: Graph, table: NewTable) -> tuple[str, str]:
    """Schema and name of a shadow."""
    return graph.shadow_schema(table.old.schema), table.old.name


def create_table(session: Session, graph: Graph, kept: Catalogue, table: NewTable) -> None:
    """One shadow, in the caller's transaction."""
    relation = kept.table(table.old.oid)
    schema, name = place(graph, table)
    session.execute(_create(graph, kept, table))
    session.execute(dressing.clear_grants("TABLE", sql.Identifier(schema, name)))
    for attribute in kept.columns_of(table.old.oid).values():
        for each in attribute.sequences if attribute.identity else ():
            if exists(session, schema, each.name):
                session.execute(dressing.clear_grants("SEQUENCE", sql.Identifier(schema, each.name)))
    for statement in _attributes(graph, kept, table, relation):
        session.execute(statement)


def _create(graph: Graph, kept: Catalogue, table: NewTable) -> sql.Composed:
    """Autovacuum would read all of it again while it is copied and its indexes are built."""
    relation = kept.table(table.old.oid)
    columns = [_column(graph, kept, table, column) for column in table.columns]
    options = [text for text in relation.options if not text.startswith(_AUTOVACUUM)]
    return sql.SQL("CREATE TABLE {} ({}){}{}{}").format(
        sql.Identifier(*place(graph, table)),
        sql.SQL(", ").join(columns),
        dressing.using(relation.method),
        dressing.with_options(
            dressing.options([*options, f"{_AUTOVACUUM}false"]),
            dressing.options(relation.toast_options, "toast"),
        ),
        dressing.tablespace(relation.tablespace),
    )


def vacuumed(kept: Catalogue, table: NewTable, at: sql.Identifier) -> sql.Composed:
    """A shadow that is built is for autovacuum what the old table is."""
    given = [text for text in kept.table(table.old.oid).options if text.startswith(_AUTOVACUUM)]
    if given:
        options = sql.SQL(", ").join(dressing.options(given))
        return sql.SQL("ALTER TABLE {} SET ({})").format(at, options)
    return sql.SQL("ALTER TABLE {} RESET (autovacuum_enabled)").format(at)


# -- columns -----------------------------------------------------------------------------------------


def origin(table: NewTable, column: NewColumn) -> str | None:
    """The old column whose comment, privileges and storage a new column takes over."""
    if column.source is not None:
        return column.source
    if column.group is None:
        return None
    group = table.groups[column.group]
    moved = rewriting.moved(group.change.key.new[column.place])
    if group.owner and moved is not None and moved in group.change.key.drop:
        return moved
    if table.old.has(column.name):
        return column.name
    if len(group.old) == 1 and group.kept.count(False) == 1:
        return group.old[0]
    return group.old[column.place] if len(group.old) == len(group.new) else None


def converted(table: NewTable, column: NewColumn) -> Group | None:
    """The group of a new column whose value is computed from one old column's and nothing else."""
    group = None if column.group is None else table.groups[column.group]
    if group is None or len(group.old) != 1 or len(group.new) != 1:
        return None
    key = group.change.key
    text = key.new[0].expression
    read = set() if text is None else expressions.columns(text)
    return group if read == {key.columns[0]} else None


def default(kept: Catalogue, table: NewTable, column: NewColumn) -> str | None:
    """The new column's default: the old one's, converted as its values are.

    A constant that stands for a key which is looked up in a map has no equivalent: None.
    """
    name = origin(table, column)
    attribute = None if name is None else kept.columns_of(table.old.oid)[name]
    if attribute is None or attribute.expression is None or attribute.generated:
        return None
    group = converted(table, column)
    if group is None:
        return attribute.expression if _has_value_of(table, column, attribute.name) else None
    key = group.change.key
    text = key.new[0].expression or key.columns[0]
    if rewriting.is_cast(text, key.columns[0]):
        return attribute.expression
    return rewriting.substituted(text, key.columns[0], attribute.expression)


def _has_value_of(table: NewTable, column: NewColumn, name: str) -> bool:
    """Whether the values of a new column are those of the old one."""
    return column.source == name or (column.group is not None and table.group_of(name) is None)


def _column(graph: Graph, kept: Catalogue, table: NewTable, column: NewColumn) -> sql.Composed:
    attributes = kept.columns_of(table.old.oid)
    name = origin(table, column)
    attribute = attributes.get(name) if name is not None else None
    return sql.SQL("{} {}{}{}{}{}").format(
        sql.Identifier(column.name),
        Verbatim(column.type),
        _compression(column, attribute),
        _collation(graph, kept, table, column),
        _value(graph, kept, table, column),
        _not_null(column, attributes.get(column.name)),
    )


def _collation(graph: Graph, kept: Catalogue, table: NewTable, column: NewColumn) -> Composable:
    """That of the column it comes from; a child's is that of its parent, or no index would serve both."""
    if column.group is not None and not table.groups[column.group].owner:
        group = table.groups[column.group]
        owner = graph.owner(group.change)
        named = group.change.key.new[column.place].name
        parent = next((each for each in owner.columns if each.name == named), None)
        if parent is not None:
            return _collation(graph, kept, owner, parent)
    name = origin(table, column)
    attribute = None if name is None else kept.columns_of(table.old.oid)[name]
    if attribute is None or attribute.collation is None:
        return sql.SQL("")
    if attribute.type != column.type and not column.type.startswith(rewriting.TEXT):
        return sql.SQL("")
    return sql.SQL(" COLLATE {}").format(sql.Identifier(*attribute.collation))


def _compression(column: NewColumn, attribute: Attribute | None) -> Composable:
    if attribute is None or attribute.compression is None or attribute.type != column.type:
        return sql.SQL("")
    return sql.SQL(" COMPRESSION {}").format(Verbatim(attribute.compression))


def _value(graph: Graph, kept: Catalogue, table: NewTable, column: NewColumn) -> Composable:
    """Default, generation or identity."""
    if column.expression is not None:
        given = column.default
        return sql.SQL("") if given is None else sql.SQL(" DEFAULT {}").format(Verbatim(f"({given})"))
    attribute = kept.columns_of(table.old.oid).get(origin(table, column) or "")
    if attribute is not None and attribute.generated and column.source is not None:
        text = rewriting.expression(
            table, attribute.expression or "", f"generated column {table}.{column.name}"
        )
        kind = sql.SQL("STORED" if attribute.generated == "s" else "VIRTUAL")
        return sql.SQL(" GENERATED ALWAYS AS ({}) {}").format(Verbatim(text), kind)
    if attribute is not None and attribute.identity and column.type in INTEGERS:
        return _identity(graph, column, attribute)
    text_or_none = default(kept, table, column)
    return sql.SQL("") if text_or_none is None else sql.SQL(" DEFAULT ({})").format(Verbatim(text_or_none))


def _identity(graph: Graph, column: NewColumn, attribute: Attribute) -> Composable:
    kind = sql.SQL("ALWAYS" if attribute.identity == "a" else "BY DEFAULT")
    sequence = attribute.sequences[0]
    return sql.SQL(" GENERATED {} AS IDENTITY (SEQUENCE NAME {} {})").format(
        kind,
        sql.Identifier(graph.shadow_schema(sequence.schema), sequence.name),
        sql.SQL(" ").join(sequence_options(sequence, column.type)),
    )


def sequence_options(sequence: OwnedSequence, type_: str) -> Iterator[Composable]:
    """What CREATE SEQUENCE says; a limit of the old column's type becomes that of the new one's."""
    largest, was = _LARGEST[type_], _LARGEST[sequence.type]
    minimum = -largest - 1 if sequence.minimum == -was - 1 else sequence.minimum
    maximum = largest if sequence.maximum == was else sequence.maximum
    start = -largest - 1 if sequence.start == -was - 1 else sequence.start
    yield sql.SQL("START WITH {}").format(sql.Literal(start))
    yield sql.SQL("INCREMENT BY {}").format(sql.Literal(sequence.increment))
    yield sql.SQL("MINVALUE {}").format(sql.Literal(minimum))
    yield sql.SQL("MAXVALUE {}").format(sql.Literal(maximum))
    yield sql.SQL("CACHE {}").format(sql.Literal(sequence.cache))
    yield sql.SQL("CYCLE" if sequence.cycle else "NO CYCLE")


def _not_null(column: NewColumn, same_name: Attribute | None) -> Composable:
    """NOT NULL; under its name where the column keeps its own. One that is not valid comes at the cutover."""
    if not column.not_null:
        return sql.SQL("")
    constraint = None if same_name is None else same_name.not_null
    if constraint is None:
        return sql.SQL(" NOT NULL")
    if not constraint.valid:
        return sql.SQL("")
    inherit = sql.SQL(" NO INHERIT" if constraint.no_inherit else "")
    return sql.SQL(" CONSTRAINT {} NOT NULL{}").format(sql.Identifier(constraint.name), inherit)


# -- everything else ---------------------------------------------------------------------------------


def _attributes(graph: Graph, kept: Catalogue, table: NewTable, relation: Relation) -> Iterator[sql.Composed]:
    there = sql.Identifier(*place(graph, table))
    yield dressing.own("TABLE", there, relation.owner)
    yield from dressing.grant("TABLE", there, relation.owner, relation.grants)
    yield from dressing.comment("TABLE", there, relation.comment)
    for column in table.columns:
        yield from _column_attributes(kept, table, column, there)
    yield from _sequences(graph, kept, table)
    if relation.replica_identity in ("n", "f"):
        kind = sql.SQL("NOTHING" if relation.replica_identity == "n" else "FULL")
        yield sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}").format(there, kind)
    if relation.row_security:
        yield sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(there)
    if relation.force_row_security:
        yield sql.SQL("ALTER TABLE {} FORCE ROW LEVEL SECURITY").format(there)
    for policy in catalogue.of(kept.policies, relation.oid):
        if policy.renewed is None:
            yield from policy_statements(table, policy, there)
    yield from _statistics(graph, kept, table)


def _column_attributes(
    kept: Catalogue, table: NewTable, column: NewColumn, there: sql.Identifier
) -> Iterator[sql.Composed]:
    attributes = kept.columns_of(table.old.oid)
    name = origin(table, column)
    attribute = attributes.get(name) if name is not None else None
    yield from dressing.grant_column(there, column.name, _column_grants(attributes, table, column))
    if attribute is None:
        return
    what = sql.SQL("{}.{}").format(there, sql.Identifier(column.name))
    yield from dressing.comment("COLUMN", what, attribute.comment)
    alter = sql.SQL("ALTER TABLE {} ALTER COLUMN {} ").format(there, sql.Identifier(column.name))
    if attribute.statistics is not None:
        yield alter + sql.SQL("SET STATISTICS {}").format(sql.Literal(attribute.statistics))
    if attribute.options:
        given = sql.SQL(", ").join(dressing.options(attribute.options))
        yield alter + sql.SQL("SET ({})").format(given)
    if attribute.storage is not None and attribute.type == column.type:
        yield alter + sql.SQL("SET STORAGE {}").format(Verbatim(attribute.storage))
    if attribute.not_null is not None and attribute.not_null.valid and column.name == attribute.name:
        yield from dressing.comment_on(
            "CONSTRAINT", attribute.not_null.name, there, attribute.not_null.comment
        )


def _column_grants(
    attributes: dict[str, Attribute], table: NewTable, column: NewColumn
) -> Sequence[catalogue.Grant]:
    """Privileges on the old column; on any of a group's old columns for what stands for it."""
    name = origin(table, column)
    names = {name} if name is not None else set()
    if column.group is not None:
        names |= set(table.groups[column.group].old)
    found = [grant for each in sorted(names) for grant in attributes[each].grants or ()]
    return list(dict.fromkeys(found))


def _sequences(graph: Graph, kept: Catalogue, table: NewTable) -> Iterator[sql.Composed]:
    """Grants and comments of identity sequences; those of serial columns stay the same sequence."""
    for column in table.columns:
        attribute = kept.columns_of(table.old.oid).get(origin(table, column) or "")
        if attribute is None or not attribute.identity or column.type not in INTEGERS:
            continue
        sequence = attribute.sequences[0]
        there = sql.Identifier(graph.shadow_schema(sequence.schema), sequence.name)
        yield from dressing.grant("SEQUENCE", there, sequence.owner, sequence.grants)
        yield from dressing.comment("SEQUENCE", there, sequence.comment)


def policy_statements(table: NewTable, policy: Policy, there: sql.Identifier) -> Iterator[sql.Composed]:
    """CREATE POLICY for a shadow. Raises CannotRewrite."""
    using, check = policy_expressions(table, policy)
    yield sql.SQL("CREATE POLICY {} ON {} AS {} FOR {} TO {}{}{}").format(
        sql.Identifier(policy.name),
        there,
        sql.SQL("PERMISSIVE" if policy.permissive else "RESTRICTIVE"),
        Verbatim(policy.command),
        sql.SQL(", ").join(map(dressing.grantee, policy.roles)),
        _clause(" USING ({})", using),
        _clause(" WITH CHECK ({})", check),
    )
    yield from dressing.comment_on("POLICY", policy.name, there, policy.comment)


def alter_policy(table: NewTable | None, policy: Policy, there: sql.Identifier) -> sql.Composed:
    """ALTER POLICY: bind its expressions to what the names mean now."""
    using, check = policy_expressions(table, policy)
    return sql.SQL("ALTER POLICY {} ON {}{}{}").format(
        sql.Identifier(policy.name), there, _clause(" USING ({})", using), _clause(" WITH CHECK ({})", check)
    )


def policy_expressions(table: NewTable | None, policy: Policy) -> tuple[str | None, str | None]:
    """USING and WITH CHECK over the new columns; as they were for a table of nobody's change."""
    what = f"policy {policy.name} of {policy.schema}.{policy.table_name}"
    texts = (policy.using, policy.with_check)
    if table is None:
        return texts
    using, check = (None if text is None else rewriting.expression(table, text, what) for text in texts)
    return using, check


def _clause(template: str, text: str | None) -> Composable:
    if text is None:
        return sql.SQL("")
    before, after = template.split("{}")
    return Verbatim(f"{before}{text}{after}")


def _statistics(graph: Graph, kept: Catalogue, table: NewTable) -> Iterator[sql.Composed]:
    for each in catalogue.of(kept.statistics, table.old.oid):
        schema = graph.shadow_schema(each.schema)
        what = f"statistics object {each.schema}.{each.name}"
        text = rewriting.statistics(table, each.definition, place(graph, table), schema, what)
        if text is None:
            continue
        there = sql.Identifier(schema, each.name)
        yield sql.Composed([Verbatim(text)])
        yield dressing.own("STATISTICS", there, each.owner)
        yield from dressing.comment("STATISTICS", there, each.comment)
        if each.target is not None:
            yield sql.SQL("ALTER STATISTICS {} SET STATISTICS {}").format(there, sql.Literal(each.target))
