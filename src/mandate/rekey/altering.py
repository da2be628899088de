"""ALTER TABLE statements that can be put together: each takes time of its own under the locks of a swap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from mandate.postgres.connection import sql


class Alteration(sql.Composed):
    """ALTER TABLE `table` `action`, where what comes of it does not depend on other tables' actions."""

    def __init__(self, table: sql.Identifier, action: sql.Composed) -> None:
        super().__init__([sql.SQL("ALTER TABLE "), table, sql.SQL(" "), action])
        self.table, self.action = table, action


def merged(statements: Iterable[sql.Composed]) -> Iterator[sql.Composed]:
    """The same in fewer statements: of alterations in a row, one for each table."""
    for is_alteration, group in groupby(statements, key=lambda each: isinstance(each, Alteration)):
        together = list(group)
        yield from _one_each(together) if is_alteration else together


def _one_each(statements: Iterable[sql.Composed]) -> Iterator[sql.Composed]:
    found: dict[str, list[Alteration]] = {}
    for each in statements:
        if isinstance(each, Alteration):
            found.setdefault(each.table.as_string(), []).append(each)
    for those in found.values():
        yield Alteration(those[0].table, sql.SQL(", ").join(each.action for each in those))
