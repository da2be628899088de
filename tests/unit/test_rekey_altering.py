"""Alterations in a row become one statement for each table, and nothing passes what stands between them."""

from __future__ import annotations

from mandate.postgres.connection import sql
from mandate.rekey.altering import Alteration, merged


def alter(table: str, action: str) -> Alteration:
    return Alteration(sql.Identifier("shop", table), sql.SQL("{}").format(sql.SQL(action)))


def test_each_table_is_altered_once_in_the_order_of_its_first_action() -> None:
    made = merged([alter("a", "ONE"), alter("b", "TWO"), alter("a", "THREE")])
    assert [each.as_string() for each in made] == [
        'ALTER TABLE "shop"."a" ONE, THREE',
        'ALTER TABLE "shop"."b" TWO',
    ]


def test_what_is_no_alteration_stays_where_it_is_between_them() -> None:
    comment = sql.SQL("COMMENT ON TABLE a IS {}").format(sql.Literal("x"))
    made = list(merged([alter("a", "ONE"), comment, alter("a", "TWO")]))
    assert [each.as_string() for each in made] == [
        'ALTER TABLE "shop"."a" ONE',
        comment.as_string(),
        'ALTER TABLE "shop"."a" TWO',
    ]
