"""Keys that stand in JSON, keys that depend on other rows, and indexes and foreign keys of the spec."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.sampling import dump
from tests.servers import DatabaseFactory
from tests.shadowing import graph_of, run_script, session_of
from tests.shops import change, schemas_left

from mandate.errors import CheckFailed
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.rekey import maps, transform
from mandate.rekey.model import Graph, NewTable
from mandate.rekey.options import Hooks

ONE = "a0000001-0000-4000-8000-00000000000a"
TWO = "b0000002-0000-4000-8000-00000000000b"
NOBODY = "c0000003-0000-4000-8000-00000000000c"

SITES = f"""
CREATE TABLE sites (id uuid PRIMARY KEY, org int NOT NULL, name text NOT NULL, UNIQUE (org, name));
CREATE TABLE docs (id int PRIMARY KEY, org int NOT NULL, site uuid REFERENCES sites, doc jsonb);
INSERT INTO sites VALUES ('{ONE}', 1, 'North'), ('{TWO}', 2, 'North');
"""
TO_SLUGS = """
[rekey]
name = "json"
[[key]]
table = "public.sites"
columns = ["id"]
old_default = "gen_random_uuid()"
drop = { name = "upper(slug)" }
[[key.new]]
name = "org"
[[key.new]]
name = "slug"
type = "text"
expression = "lower(name) || '-' || org"
replaces = "name"
[[json]]
table = "public.docs"
column = "doc"
path = "$.site"
key = "public.sites"
[[json]]
table = "public.docs"
column = "doc"
path = "$.grid[*][*].of_.id"
key = "public.sites"
[[json]]
table = "public.docs"
column = "doc"
path = "$.names[*]"
key = "public.sites"
old = "name"
same = { org = "org" }
[[json]]
table = "public.docs"
column = "doc"
path = "$.site_id"
key = "public.sites"
rename = "site"
"""

# What stands there before, and after; all in organization 1.
THERE: list[tuple[Any, Any]] = [
    (None, None),
    ({}, {}),
    ([], []),
    ("site", "site"),
    (7, 7),
    ({"site": ONE}, {"site": "north-1"}),
    ({"site": ONE.upper()}, {"site": "north-1"}),
    ({"site": f"{{{ONE}}}"}, {"site": "north-1"}),
    ({"site": ONE.replace("-", "")}, {"site": "north-1"}),
    ({"site": TWO, "kept": {"site": ONE}}, {"site": "north-2", "kept": {"site": ONE}}),
    ({"site": NOBODY}, {"site": NOBODY}),
    ({"site": ""}, {"site": ""}),
    ({"site": None}, {"site": None}),
    ({"site": 12.50}, {"site": 12.50}),
    ({"site": [ONE]}, {"site": [ONE]}),
    ({"site": {"id": ONE}}, {"site": {"id": ONE}}),
    ({"site": "'); DROP TABLE sites; --"}, {"site": "'); DROP TABLE sites; --"}),
    ({"site": '%s {} \\ " \u00e9 \U0001f600'}, {"site": '%s {} \\ " \u00e9 \U0001f600'}),
    (
        {"grid": [[{"of_": {"id": ONE}}, {"of_": 1}, {}, 3], [], ONE, [{"of_": {"id": TWO, "x": None}}]]},
        {
            "grid": [
                [{"of_": {"id": "north-1"}}, {"of_": 1}, {}, 3],
                [],
                ONE,
                [{"of_": {"id": "north-2", "x": None}}],
            ]
        },
    ),
    ({"grid": {"of_": {"id": ONE}}}, {"grid": {"of_": {"id": ONE}}}),
    ({"names": ["North", "north", "South", 1, None]}, {"names": ["north-1", "north", "South", 1, None]}),
    ({"names": "North"}, {"names": "North"}),
    ({"site_id": ONE, "x": 1}, {"site": "north-1", "x": 1}),
]


def rows_of(session: Session, query: sql.Composed) -> dict[int, Any]:
    return {row["id"]: row["doc"] for row in session.rows(query)}


def prepared(session: Session, target: Target) -> tuple[Graph, NewTable]:
    """Maps of the sites, and the table with the documents."""
    run_script(target, SITES)
    graph = graph_of(session, TO_SLUGS)
    maps.create(session, graph)
    maps.fill(session, graph)
    return graph, next(table for table in graph.tables if str(table) == "public.docs")


def test_strings_that_are_keys_are_replaced_there_and_back(database: DatabaseFactory) -> None:
    target = database("empty")
    with session_of(target) as session:
        graph, docs = prepared(session, target)
        for number, (doc, _) in enumerate(THERE):
            text = None if doc is None and number == 0 else json.dumps(doc)
            session.execute("INSERT INTO public.docs VALUES (%s, 1, NULL, %s::jsonb)", (number, text))
        there = rows_of(session, transform.new_rows(graph, docs))
        assert there == {number: doc for number, (_, doc) in enumerate(THERE)}
        session.execute(sql.SQL("CREATE TABLE public.after AS {}").format(transform.new_rows(graph, docs)))
        back = rows_of(session, transform.old_rows(graph, docs, sql.Identifier("public", "after")))
        assert session.value("SELECT count(*) FROM public.sites") == 2
    canonical = json.dumps([doc for doc, _ in THERE]).replace(ONE.upper(), ONE).replace(f"{{{ONE}}}", ONE)
    expected = json.loads(canonical.replace(ONE.replace("-", ""), ONE).replace("site_id", "site"))
    assert [back[number] for number in range(len(THERE))] == expected


def test_a_long_array_is_looked_up_by_an_index(database: DatabaseFactory) -> None:
    target = database("empty")
    with session_of(target) as session:
        run_script(
            target,
            SITES + "INSERT INTO sites SELECT gen_random_uuid(), 3, 's' || i FROM generate_series(1, 3000) i;"
            "INSERT INTO docs SELECT 1, 3, NULL, jsonb_build_object('grid', (SELECT jsonb_agg("
            "jsonb_build_array(jsonb_build_object('of_', jsonb_build_object('id', upper(id::text)))))"
            " FROM sites))",
        )
        graph = graph_of(session, TO_SLUGS)
        maps.create(session, graph)
        maps.fill(session, graph)
        docs = next(table for table in graph.tables if str(table) == "public.docs")
        plan = session.rows(sql.SQL("EXPLAIN {}").format(transform.new_rows(graph, docs)))
        assert "Index Scan" in str(plan)
        doc = rows_of(session, transform.new_rows(graph, docs))[1]
    assert len({cell[0]["of_"]["id"] for cell in doc["grid"]}) == 3002
    assert doc["grid"][2][0]["of_"]["id"].startswith("s")


def test_strings_that_are_no_keys_stop_the_run_with_count_and_example(database: DatabaseFactory) -> None:
    target = database("empty")
    run_script(
        target,
        SITES
        + f"""INSERT INTO docs VALUES (1, 1, NULL, '{{"site": "{NOBODY}", "names": ["South", "North"]}}'),
            (2, 1, NULL, '{{"site": "'' -- \\u00e9", "grid": [[{{"of_": {{"id": 3}}}}]]}}');""",
    )
    with pytest.raises(CheckFailed) as raised:
        change(target, TO_SLUGS).run()
    found = raised.value.message
    assert (
        'public.docs.doc, $.site: 2 strings are the key of no row of public.sites, such as "\' -- é"' in found
    )
    assert "public.docs.doc, $.names[*]: 1 strings are the key of no row" in found
    assert "such as 'South'" in found
    with connect(target) as session:
        assert session.value("SELECT to_regnamespace('mandate_new_json')") is None


COUNTRIES = """
CREATE SEQUENCE numbers START 1000;
CREATE TABLE countries (id int PRIMARY KEY DEFAULT nextval('numbers'), code text NOT NULL);
CREATE TABLE towns (
    id int PRIMARY KEY DEFAULT nextval('numbers'),
    country int NOT NULL REFERENCES countries,
    name text NOT NULL
);
CREATE TABLE bosses (id int PRIMARY KEY);
CREATE TABLE people (
    id int PRIMARY KEY,
    town int REFERENCES towns,
    boss int,
    visited jsonb NOT NULL DEFAULT '[]'
);
CREATE INDEX people_town ON people (town);
CREATE INDEX people_boss ON people (boss);
INSERT INTO bosses VALUES (1), (2);
INSERT INTO countries (id, code) SELECT i, 'c' || i % 3 FROM generate_series(1, 9) i;
INSERT INTO countries (id, code) VALUES (200, 'only');
INSERT INTO towns (id, country, name) SELECT i, 1 + i % 9, 't' || i FROM generate_series(1, 60) i;
INSERT INTO towns (id, country, name) VALUES (300, 200, 'alone');
INSERT INTO people SELECT i, 1 + i % 60, 1 + i % 2, jsonb_build_array((1 + i % 60)::text, i)
FROM generate_series(1, 500) i;
INSERT INTO people VALUES (900, 300, 1, '["300", "1", 7]'), (901, 1, 1, '["300"]');
"""

# A town's key has its country's, and a country's a number where its code is not the only one.
TO_CODES = """
[rekey]
name = "codes"
[[key]]
table = "public.countries"
columns = ["id"]
old_default = "nextval('public.numbers')"
query = '''
    SELECT c.id, c.code || CASE WHEN count(*) OVER (PARTITION BY c.code) > 1 THEN '-' || c.id ELSE '' END
    FROM public.countries AS c -- those of a code together
'''
[[key.new]]
name = "id"
type = "text"
[[key]]
table = "public.towns"
columns = ["id"]
old_default = "nextval('public.numbers')"
query = '''
    SELECT t.id, c.code || CASE WHEN c.n > 1 THEN '-' || c.id ELSE '' END || '/' || t.name
    FROM public.towns AS t JOIN (
        SELECT id, code, count(*) OVER (PARTITION BY code) AS n FROM public.countries
    ) AS c ON c.id = t.country
'''
[[key.new]]
name = "id"
type = "text"
[[json]]
table = "public.people"
column = "visited"
path = "$[*]"
key = "public.towns"
[[index]]
table = "public.people"
name = "people_by_town"
on = "(town, boss DESC) WHERE town IS NOT NULL"
instead_of = ['[(]town[)]$']
[[index]]
table = "public.people"
name = "people_boss"
on = "USING hash (boss)"
[[foreign_key]]
table = "public.people"
name = "people_up"
columns = ["boss"]
references = "public.bosses"
referred = ["id"]
[[foreign_key]]
table = "public.towns"
name = "towns_of_countries"
columns = ["country"]
references = "public.countries"
referred = ["id"]
[[foreign_key]]
table = "public.people"
name = "not_used"
columns = ["town"]
references = "public.towns"
referred = ["id"]
keep_name = true
"""
# Their country is not the only one of its code any more: everything that named it has another name.
TWIN = b"INSERT INTO public.countries (id, code) VALUES (201, 'only')"
IN_WINDOW = b"""
INSERT INTO public.countries VALUES ('new', 'new');
INSERT INTO public.towns VALUES ('new/x', 'new', 'x');
INSERT INTO public.people VALUES (902, 'new/x', 2, '["new/x", "only-200/alone", 5]');
UPDATE public.people SET visited = visited || '["new/x"]' WHERE id = 901;
"""


def people(session: Session) -> dict[int, tuple[Any, Any]]:
    rows = session.rows("SELECT id, town, visited FROM public.people WHERE id >= 900")
    return {row["id"]: (row["town"], row["visited"]) for row in rows}


def definitions(session: Session) -> set[str]:
    rows = session.rows(
        "SELECT pg_get_indexdef(indexrelid) AS text FROM pg_index WHERE indrelid = 'people'::regclass"
        " UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f'"
        " AND conrelid IN ('people'::regclass, 'towns'::regclass)"
    )
    return {row["text"] for row in rows}


def test_keys_of_other_rows_json_indexes_and_foreign_keys_live_a_whole_life(
    database: DatabaseFactory,
) -> None:
    target = database("empty")
    run_script(target, COUNTRIES)
    before = dump(target)
    engine = change(target, TO_CODES)

    def born(_: Session) -> None:
        with connect(target) as client:
            client.execute(TWIN + b" ON CONFLICT DO NOTHING")

    late = engine.options.with_hooks(Hooks(before_swap=(born,)))
    replace(engine, options=late).run()
    with connect(target) as session:
        first = ("only-200/alone", ["only-200/alone", "c2-2/t1", 7])
        assert people(session) == {900: first, 901: ("c2-2/t1", ["only-200/alone"])}
        assert definitions(session) == {
            "CREATE UNIQUE INDEX people_pkey ON public.people USING btree (id)",
            "CREATE INDEX people_by_town ON public.people USING btree (town, boss DESC)"
            " WHERE (town IS NOT NULL)",
            "CREATE INDEX people_boss ON public.people USING hash (boss)",
            "people_up FOREIGN KEY (boss) REFERENCES bosses(id)",
            "towns_of_countries FOREIGN KEY (country) REFERENCES countries(id)",
            "people_town_fkey FOREIGN KEY (town) REFERENCES towns(id)",
        }
        assert session.value("SELECT bool_and(convalidated) FROM pg_constraint WHERE contype = 'f'")
        session.execute(IN_WINDOW)
        in_window = people(session)

    engine.rollback()
    assert dump(target) == before
    with connect(target) as session:
        town = session.value("SELECT id FROM towns WHERE name = 'x'")
        assert people(session) == {
            900: (300, ["300", "1", 7]),
            901: (1, ["300", str(town)]),
            902: (town, [str(town), "300", 5]),
        }
        assert session.value("SELECT count(*) FROM people WHERE visited ->> 0 = town::text") == 502

    engine.run()
    engine.finalize()
    with connect(target) as session:
        assert people(session) == in_window
        assert session.value("SELECT count(*) FROM people WHERE visited ->> 0 = town") == 502
        assert schemas_left(session) == []
