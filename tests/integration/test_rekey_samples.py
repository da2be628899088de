"""Well known sample databases: plan, run under writers, back to the byte, forward again, the end."""

from __future__ import annotations

import pytest
from tests.sampling import MARK, Sample, contents, dump, intended, load, missing, parts, writing
from tests.servers import DatabaseFactory
from tests.shops import schemas_left

from mandate.postgres.connection import connect

PAGILA = Sample(
    "pagila",
    writes=(
        f"INSERT INTO customer (store_id, first_name, last_name, address_id) VALUES (1, '{MARK}', 'x', 5)",
        f"INSERT INTO film (title, language_id) VALUES ('{MARK}', 1)",
        f"INSERT INTO address (address) VALUES ('{MARK}')",
        "INSERT INTO rental (rental_date, inventory_id, customer_id)"
        " SELECT clock_timestamp(), 1 + random() * 3999, 1 + random() * 599 ON CONFLICT DO NOTHING",
        "UPDATE film SET description = random()::text WHERE film_id = 1 + (random() * 999)::int",
        "UPDATE customer SET activebool = NOT activebool WHERE customer_id = 1 + (random() * 599)::int",
        "DELETE FROM rental WHERE rental_id = (1 + random() * 5999)::int",
        "SELECT count(*) FROM active_customer_list",
    ),
    marked=(
        "SELECT first_name AS mark FROM customer",
        "SELECT title AS mark FROM film",
        "SELECT address AS mark FROM address",
    ),
    intended=(
        (r"^    ((customer|film|inventory|address)_id) integer", r"    \1 bigint"),
        # A partitioned table beside the change has a customer_id of its own that refers to nothing.
        (r"(CREATE TABLE public.payment\w* \((?:\n    .*)*?\n    customer_id) bigint", r"\1 integer"),
    ),
)

CHINOOK = Sample(
    "chinook",
    writes=(
        f'INSERT INTO "Album" ("Title", "ArtistId") VALUES (\'{MARK}\', 1)',
        f'INSERT INTO "Artist" ("Name") VALUES (\'{MARK}\')',
        'INSERT INTO "PlaylistTrack" SELECT 1 + (random() * 17)::int, 1 + (random() * 1999)::int'
        " ON CONFLICT DO NOTHING",
        'DELETE FROM "PlaylistTrack" WHERE "TrackId" = 1 + (random() * 1999)::int',
        'UPDATE "Track" SET "Milliseconds" = 1 + random() * 9 WHERE "TrackId" = 1 + (random() * 1999)::int',
        'UPDATE "Employee" SET "Title" = random()::text WHERE "HireDate" IS NOT NULL',
    ),
    marked=('SELECT "Title" AS mark FROM "Album"', 'SELECT "Name" AS mark FROM "Artist"'),
    intended=(
        (r'^    "((Album|Track)Id)" integer', r'    "\1" bigint'),
        (r'^    "(EmployeeId|ReportsTo|SupportRepId)" integer', r'    "\1" text'),
    ),
    same_rows=False,
)

NORTHWIND = Sample(
    "northwind",
    writes=(
        f"INSERT INTO suppliers VALUES (lpad((random() * 99999)::int::text, 5, '0'), '{MARK}')"
        f" ON CONFLICT (code) DO UPDATE SET company_name = suppliers.company_name || ' {MARK}'",
        "UPDATE orders SET freight = random() WHERE order_id = 10248 + (random() * 829)::int",
        "DELETE FROM order_details WHERE order_id = 10248 + (random() * 829)::int",
        "UPDATE customers SET country = 'DE' WHERE company_name = 'Company ' || (1 + random() * 90)::int",
        "SELECT sum(subtotal) FROM order_subtotals",
    ),
    marked=("SELECT unnest(string_to_array(company_name, ' ')) AS mark FROM suppliers",),
    intended=(
        (r"^    (customer_id|supplier|code) (bpchar|character\(5\))", r"    \1 text"),
        (r"^    (employee_id|reports_to|order_id) smallint", r"    \1 bigint"),
        (r"^    product_id smallint NOT NULL,\n    product_name", "    product_name"),
        (r"^    product_id smallint", "    product_name character varying(40)"),
        (r"PRIMARY KEY \((order_id, )?product_id\)", r"PRIMARY KEY (\1product_name)"),
        (
            r"product_id_fkey FOREIGN KEY \(product_id\) REFERENCES public.products\(product_id\)",
            "product_id_fkey FOREIGN KEY (product_name) REFERENCES public.products(product_name)",
        ),
    ),
    same_rows=False,
)

PGBENCH = Sample(
    "pgbench",
    writes=(
        "WITH a AS (UPDATE pgbench_accounts SET abalance = abalance + 1"
        " WHERE aid = (SELECT 1 + (random() * 9999)::int)"
        " RETURNING aid, bid) INSERT INTO pgbench_history (tid, bid, aid, delta, filler)"
        f" SELECT 1, bid, aid, 1, '{MARK}' FROM a",
        "UPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = 1 + (random() * 19)::int",
        "DELETE FROM pgbench_history WHERE entry = (SELECT min(entry) FROM pgbench_history WHERE delta <> 1)",
    ),
    marked=("SELECT rtrim(filler) AS mark FROM pgbench_history",),
    intended=((r"^    (aid|bid) integer", r"    \1 bigint"),),
)

ODD = Sample(
    "odd",
    writes=(
        f"WITH h AS (INSERT INTO hen DEFAULT VALUES RETURNING id), e AS (INSERT INTO egg (hen)"
        f" SELECT id FROM h RETURNING hen) INSERT INTO marks SELECT hen, '{MARK}' FROM e",
        'INSERT INTO "My Schema"."tab{le}" SELECT 1 + (random() * 199)::int, (random() * 1e9)::int'
        " ON CONFLICT DO NOTHING",
        'INSERT INTO "My Schema".hen (hen) SELECT hen FROM "My Schema".hens LIMIT 1',
        'INSERT INTO "My Schema".hens (hen) SELECT 51 + (random() * 40)::int',
        "UPDATE nothing SET hen = (random() * 99)::int",
        "UPDATE nest SET twigs = twigs + 1 WHERE hen = (SELECT 1 + (random() * 99)::int)",
        'UPDATE "My Schema"."select" SET "%s" = \'y\' WHERE "Id " = (SELECT 1 + (random() * 199)::int)',
        "DELETE FROM egg WHERE id = (SELECT 101 + (random() * 99)::int)",
    ),
    marked=("SELECT m.mark FROM marks m JOIN hen h ON h.id = m.hen",),
    intended=(
        (r"^    (hen|egg|\"Id \"|\"from\"|\"é+\") integer", r"    \1 bigint"),
        (r"^    id integer (DEFAULT nextval|NOT NULL)", r"    id bigint \1"),
    ),
    before="CREATE TABLE marks (hen bigint, mark text);",
)

DJANGO = Sample(
    "django",
    writes=(
        "INSERT INTO auth_user (password, is_superuser, username, date_joined)"
        f" VALUES ('x', false, '{MARK}', now())",
        # Deferred: the member comes before the user.
        "WITH n AS (SELECT nextval('auth_user_id_seq') AS id), g AS (INSERT INTO auth_user_groups (user_id,"
        " group_id) SELECT id, 1 FROM n) INSERT INTO auth_user (id, password, is_superuser, username,"
        " date_joined) SELECT id, 'x', false, id::text, now() FROM n",
        "INSERT INTO django_admin_log (action_time, action_flag, content_type_id, user_id)"
        " SELECT now(), 1, 1 + (random() * 29)::int, 1 + (random() * 499)::int",
        "UPDATE auth_user SET last_login = now() WHERE id = (SELECT 1 + (random() * 499)::int)",
        "DELETE FROM django_admin_log WHERE id = (SELECT 1 + (random() * 1999)::int)",
        "UPDATE django_content_type SET model = model || '' WHERE id = (SELECT 1 + (random() * 29)::int)",
    ),
    marked=("SELECT username AS mark FROM auth_user",),
    intended=(
        (r"^    (user_id|group_id|content_type_id) integer", r"    \1 bigint"),
        (
            r"(CREATE TABLE public.(?:auth_user|auth_group|django_content_type) \(\n    id) integer",
            r"\1 bigint",
        ),
        (r"(SEQUENCE public.auth_(?:user|group)_id_seq)\n    AS integer", r"\1"),
    ),
)

TENANTS = Sample(
    "tenants",
    writes=(
        "INSERT INTO saas.documents (tenant_id, author, title)"
        f" SELECT 1 + (random() * 19)::int, 1 + (random() * 6)::int, '{MARK}'",
        "INSERT INTO saas.comments SELECT tenant_id, id, 2, 'more' FROM saas.documents"
        " WHERE id = (SELECT 1 + (random() * 999)::int) ON CONFLICT DO NOTHING",
        "UPDATE saas.documents SET shared = NOT shared WHERE id = (SELECT 1 + (random() * 999)::int)",
        "DELETE FROM saas.users WHERE tenant_id = (SELECT 1 + (random() * 19)::int) AND id = 20",
        "SELECT count(*) FROM saas.authors",
    ),
    marked=("SELECT title AS mark FROM saas.documents",),
    intended=(
        (r"^    tenant_id integer", "    tenant_id bigint"),
        (r"(CREATE TABLE saas.tenants \(\n    id) integer", r"\1 bigint"),
    ),
)

SAMPLES = {sample.name: sample for sample in (PAGILA, CHINOOK, NORTHWIND, PGBENCH, ODD, DJANGO, TENANTS)}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_goes_through_its_whole_life(name: str, database: DatabaseFactory) -> None:
    sample, target = SAMPLES[name], database("empty")
    load(target, sample)
    before = dump(target)
    engine = sample.engine(target)
    with writing(target, sample) as writers:
        engine.run()
    with connect(target) as session:
        assert [writer.failures for writer in writers] == [[], []]
        assert all(writer.marks for writer in writers)
        assert missing(session, sample, writers) == set()
        rows = contents(session)
        assert parts(dump(target)) == parts(intended(sample, before))
        engine.rollback()
        assert dump(target) == before
        assert missing(session, sample, writers) == set()
        counts = {name: len(each) for name, each in rows.items()}
        back = contents(session)
        assert {name: len(each) for name, each in back.items()} == counts
        assert not sample.same_rows or back == rows
        engine.run()
        assert contents(session) == rows
        engine.finalize()
        assert contents(session) == rows
        assert parts(dump(target)) == parts(intended(sample, before))
        assert schemas_left(session) == []
