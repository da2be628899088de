"""A number or a surrogate gives way to a natural key: what becomes of all that needed it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.servers import DatabaseFactory
from tests.shadowing import build_all, drop_schemas, graph_of, run_script, schema_dump, session_of, swap

from mandate.progress import Silent
from mandate.rekey import build, engine, refuse, spec
from mandate.rekey.direction import BACK
from mandate.rekey.options import Options

NATURAL = (Path(__file__).parent.parent / "sql" / "natural_key.sql").read_text("utf-8")

TO_NATURAL = """
[rekey]
name = "nat"
[[key]]
table = "app.projects"
columns = ["id"]
drop = { name = "slug" }
old_default = "gen_random_uuid()"
[[key.new]]
name = "tenant"
[[key.new]]
name = "slug"
type = "text"
expression = "name"
[[reference]]
table = "app.members"
columns = ["project"]
new = ["project_tenant", "project_slug"]
"""


def test_a_surrogate_gives_way_to_a_natural_key(database: DatabaseFactory) -> None:
    target = database("empty")
    run_script(target, NATURAL)
    before = schema_dump(target)
    with session_of(target) as session:
        graph = graph_of(session, TO_NATURAL)
        assert refuse.problems(session, graph) == []
        assert build.dropped(session, graph) == [
            "index projects_tenant_id_key of app.projects: it would be the same as projects_pkey",
            "index projects_tenant_name_key of app.projects: it would be the same as projects_pkey",
            "foreign key tasks_both of app.tasks would be the same as tasks_project_id_fkey:"
            " only that one is kept",
        ]
        build_all(session, graph)
        swap(session, graph)
        after = "\n".join(schema_dump(target))
        swap(session, graph, BACK)
        drop_schemas(session, graph)
    for expected in (
        "ADD CONSTRAINT projects_pkey PRIMARY KEY (tenant, slug);",
        "ADD CONSTRAINT members_pkey PRIMARY KEY (project_tenant, project_slug, who);",
        "FOREIGN KEY (project_tenant, project_slug) REFERENCES app.projects(tenant, slug)"
        " ON UPDATE CASCADE ON DELETE CASCADE;",
        "FOREIGN KEY (tenant, slug) REFERENCES app.projects(tenant, slug) ON DELETE SET NULL (slug);",
        "EXCLUDE USING btree (project_tenant WITH =, project_slug WITH =, who WITH =);",
        "CREATE INDEX projects_open ON app.projects USING btree (tenant, slug) WHERE (NOT closed);",
        "CREATE INDEX projects_name ON app.projects USING btree (slug) INCLUDE (tenant);",
        "CREATE INDEX tasks_project ON app.tasks USING btree (tenant, slug) WHERE (slug IS NOT NULL);",
        "CREATE INDEX tasks_project_done ON app.tasks USING btree (tenant, slug, done DESC);",
        "CREATE POLICY tasks_assigned ON app.tasks USING ((slug IS NOT NULL));",
        "CREATE STATISTICS app.projects_two (ndistinct) ON tenant, slug, closed FROM app.projects;",
        """slug text DEFAULT 'unnamed'::text NOT NULL COLLATE pg_catalog."C",""",
        "CONSTRAINT tasks_tenant_slug_all_or_none"
        " CHECK (((slug IS NULL) OR ((tenant IS NOT NULL) AND (slug IS NOT NULL))))",
        "AFTER UPDATE OF tenant, slug, title ON app.tasks FOR EACH ROW WHEN ((old.slug IS NULL))",
        "COMMENT ON COLUMN app.projects.slug IS 'what people call it';",
        "ADD TABLE ONLY app.members (project_tenant, project_slug, who) WHERE ((who <> 'nobody'::text));",
        "GRANT SELECT(slug) ON TABLE app.tasks TO PUBLIC;",
        "ADD CONSTRAINT notes_task_fkey FOREIGN KEY (task) REFERENCES app.tasks(id) ON DELETE CASCADE;",
    ):
        assert expected in after
    assert re.search(r"\bproject_id\b", after) is None
    assert schema_dump(target) == before


def test_a_sequence_that_others_use_stays_when_its_column_goes(database: DatabaseFactory) -> None:
    target = database("empty")
    run_script(target, NATURAL)
    with session_of(target) as session:
        graph = graph_of(session, TO_NATURAL)
        build_all(session, graph)
        swap(session, graph)
        drop_schemas(session, graph)
        assert session.value("INSERT INTO app.numbered DEFAULT VALUES RETURNING number") == 1


def test_a_number_that_goes_is_counted_on_for_what_is_born_without_it(database: DatabaseFactory) -> None:
    """Its sequence is aside with the column that owns it, and comes back with it."""
    target = database("empty")
    run_script(
        target,
        """
        CREATE TABLE zones (id serial PRIMARY KEY, name text NOT NULL UNIQUE);
        CREATE TABLE records (number int PRIMARY KEY, zone int NOT NULL REFERENCES zones);
        INSERT INTO zones (name) VALUES ('a'), ('b');
        INSERT INTO records VALUES (1, 2);
        """,
    )
    text = """
        [rekey]
        name = "zones"
        [[key]]
        table = "public.zones"
        columns = ["id"]
        old_default = "nextval('public.zones_id_seq')"
        [[key.new]]
        name = "name"
        [[reference]]
        table = "public.records"
        columns = ["zone"]
        new = ["zone_name"]
    """
    before = schema_dump(target)
    change = engine.Engine(target, spec.parse(text), Options(), Silent())
    change.run()
    with session_of(target) as session:
        session.execute("INSERT INTO public.zones VALUES ('c')")
        session.execute("INSERT INTO public.records VALUES (2, 'c')")
        change.rollback()
        assert schema_dump(target) == before
        assert session.value("SELECT zone FROM public.records WHERE number = 2") == 3
        assert session.value("INSERT INTO public.zones (name) VALUES ('d') RETURNING id") == 4
        change.run()
        change.finalize()
        assert session.value("SELECT count(*) FROM pg_class WHERE relkind = 'S' AND relname ~ '^zones'") == 0
