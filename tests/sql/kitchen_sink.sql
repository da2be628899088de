-- One of every kind of object that a table can have, around tables whose keys change.
-- Roles belong to the server, not to the database.
DO $$
DECLARE
    wanted name;
BEGIN
    FOREACH wanted IN ARRAY '{sink_owner,sink_reader,sink_clerk}'::name[] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I', wanted);
        END IF;
    END LOOP;
END
$$;
CREATE SCHEMA sink;
GRANT USAGE, CREATE ON SCHEMA sink TO sink_owner;

CREATE TYPE sink.mood AS ENUM ('good', 'bad');
CREATE DOMAIN sink.email AS text CHECK (value ~ '@');
CREATE COLLATION sink.bytes FROM "C";

CREATE FUNCTION sink.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'refused % on %', TG_OP, TG_TABLE_NAME;
END
$$;
CREATE FUNCTION sink.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE FUNCTION sink.add_one(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';

CREATE TABLE sink.countries (
    code text PRIMARY KEY,
    name text
);
INSERT INTO sink.countries VALUES ('nl', 'Netherlands'), ('de', 'Germany');

CREATE TABLE sink.customers (
    id serial CONSTRAINT customers_pk PRIMARY KEY,
    gone integer,
    "Name" text COLLATE sink.bytes NOT NULL,
    code varchar(10) DEFAULT 'x' || 'y',
    mail sink.email,
    feeling sink.mood DEFAULT 'good',
    country text DEFAULT 'nl' REFERENCES sink.countries ON UPDATE CASCADE ON DELETE SET DEFAULT,
    referred_by integer DEFAULT NULL,
    born date,
    alive daterange NOT NULL DEFAULT '[2000-01-01,)',
    picture bytea,
    shout text GENERATED ALWAYS AS (upper("Name") || '!') STORED,
    id_text text GENERATED ALWAYS AS ((id)::text) STORED,
    CONSTRAINT customers_code_key UNIQUE (code) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT customers_born CHECK (born > '1900-01-01'),
    CONSTRAINT customers_id_positive CHECK (id > 0) NO INHERIT,
    CONSTRAINT customers_alive EXCLUDE USING gist (alive WITH &&) WHERE (id < 0),
    CONSTRAINT customers_self FOREIGN KEY (referred_by) REFERENCES sink.customers
        ON DELETE SET NULL DEFERRABLE INITIALLY IMMEDIATE
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_enabled = false);
ALTER TABLE sink.customers DROP COLUMN gone;
ALTER TABLE sink.customers OWNER TO sink_owner;
ALTER SEQUENCE sink.customers_id_seq INCREMENT 3 CACHE 5;
GRANT USAGE ON SEQUENCE sink.customers_id_seq TO sink_clerk;
COMMENT ON SEQUENCE sink.customers_id_seq IS 'numbers';
COMMENT ON TABLE sink.customers IS 'people who''d buy';
COMMENT ON COLUMN sink.customers.id IS 'the key';
COMMENT ON COLUMN sink.customers."Name" IS '100% theirs';
COMMENT ON CONSTRAINT customers_born ON sink.customers IS 'not that old';
COMMENT ON CONSTRAINT customers_pk ON sink.customers IS 'the key itself';
COMMENT ON CONSTRAINT customers_self ON sink.customers IS 'a friend';
ALTER TABLE sink.customers ALTER COLUMN picture SET STORAGE EXTERNAL;
ALTER TABLE sink.customers ALTER COLUMN "Name" SET COMPRESSION pglz;
ALTER TABLE sink.customers ALTER COLUMN id SET STATISTICS 77;
ALTER TABLE sink.customers ALTER COLUMN country SET (n_distinct = 200);
ALTER TABLE sink.customers ADD CONSTRAINT customers_later CHECK (length("Name") < 50) NOT VALID;
COMMENT ON CONSTRAINT customers_later ON sink.customers IS 'not yet';
GRANT SELECT, INSERT ON sink.customers TO sink_reader WITH GRANT OPTION;
GRANT ALL ON sink.customers TO sink_clerk;
GRANT SELECT (id, "Name"), UPDATE (code) ON sink.customers TO PUBLIC;

CREATE INDEX customers_name ON sink.customers ("Name" text_pattern_ops DESC NULLS LAST) INCLUDE (id, code);
CREATE INDEX customers_lower ON sink.customers (lower("Name"), (id % 10)) WITH (fillfactor = 60)
    WHERE country IS NOT NULL AND id > 5;
ALTER INDEX sink.customers_lower ALTER COLUMN 2 SET STATISTICS 99;
COMMENT ON INDEX sink.customers_lower IS 'half of them';
CREATE INDEX customers_id_hash ON sink.customers USING hash (id);
CREATE INDEX customers_id_brin ON sink.customers USING brin (id int4_minmax_multi_ops);
CREATE UNIQUE INDEX customers_name_code ON sink.customers ("Name", code);
CREATE UNIQUE INDEX customers_name_code_nulls ON sink.customers (id, code) NULLS NOT DISTINCT;
CREATE INDEX customers_twin_1 ON sink.customers (born);
CREATE INDEX customers_twin_2 ON sink.customers (born);
ALTER TABLE sink.customers CLUSTER ON customers_name;
CREATE STATISTICS sink.customers_together (ndistinct, dependencies) ON id, country, born FROM sink.customers;
CREATE STATISTICS sink.customers_expression ON (id % 7) FROM sink.customers;
ALTER STATISTICS sink.customers_together SET STATISTICS 55;
ALTER STATISTICS sink.customers_together OWNER TO sink_owner;
COMMENT ON STATISTICS sink.customers_together IS 'they go together';
CREATE TRIGGER customers_refuse BEFORE DELETE ON sink.customers FOR EACH ROW EXECUTE FUNCTION sink.refuse('a', 'b c');
CREATE TRIGGER customers_always AFTER UPDATE OF id, code ON sink.customers
    FOR EACH ROW WHEN (OLD.id IS DISTINCT FROM NEW.id) EXECUTE FUNCTION sink.keep();
CREATE TRIGGER customers_replica AFTER INSERT ON sink.customers REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION sink.keep();
CREATE TRIGGER customers_off BEFORE INSERT ON sink.customers FOR EACH ROW EXECUTE FUNCTION sink.keep();
CREATE CONSTRAINT TRIGGER customers_constraint AFTER INSERT ON sink.customers
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sink.keep();
ALTER TABLE sink.customers ENABLE ALWAYS TRIGGER customers_always;
ALTER TABLE sink.customers ENABLE REPLICA TRIGGER customers_replica;
ALTER TABLE sink.customers DISABLE TRIGGER customers_off;
COMMENT ON TRIGGER customers_refuse ON sink.customers IS 'no';

CREATE TABLE sink.orders (
    id integer GENERATED ALWAYS AS IDENTITY (START WITH 10 INCREMENT BY 2 CACHE 3) PRIMARY KEY,
    customer integer NOT NULL DEFAULT 1 REFERENCES sink.customers (id) ON UPDATE CASCADE ON DELETE CASCADE,
    payer integer REFERENCES sink.customers (id) ON DELETE RESTRICT,
    total numeric(10, 2) NOT NULL CHECK (total >= 0),
    uuid_ uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,
    during int4range,
    note text
);
GRANT SELECT ON SEQUENCE sink.orders_id_seq TO sink_reader;
ALTER TABLE sink.orders REPLICA IDENTITY USING INDEX orders_uuid__key;
CREATE INDEX orders_customer ON sink.orders (customer, total DESC) INCLUDE (payer);
CREATE INDEX orders_pending ON sink.orders (id) WHERE payer IS NULL;
ALTER TABLE sink.orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE sink.orders FORCE ROW LEVEL SECURITY;
CREATE POLICY everybody ON sink.orders FOR SELECT TO sink_reader, sink_clerk USING (customer > 0);
CREATE POLICY mine ON sink.orders AS RESTRICTIVE TO PUBLIC
    USING (EXISTS (SELECT FROM sink.customers c WHERE c.id = orders.customer AND c."Name" = CURRENT_USER))
    WITH CHECK (payer IS NULL);
COMMENT ON POLICY mine ON sink.orders IS 'own rows';

-- Functions of their row types, and one that remembers the type of a column.
CREATE FUNCTION sink.customers_like(sink.customers, "how much" integer DEFAULT 1 + 1)
    RETURNS SETOF sink.customers LANGUAGE sql STABLE ROWS 7
    AS 'SELECT * FROM sink.customers c WHERE c.country = $1.country';
ALTER FUNCTION sink.customers_like OWNER TO sink_owner;
REVOKE ALL ON FUNCTION sink.customers_like FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sink.customers_like TO sink_reader WITH GRANT OPTION;
COMMENT ON FUNCTION sink.customers_like IS 'neighbours';
CREATE FUNCTION sink.orders_of(VARIADIC sink.customers[]) RETURNS TABLE (one sink.orders, "at" integer)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = sink
    AS 'BEGIN RETURN QUERY SELECT o, 1 FROM orders o WHERE o.customer = $1[1].id; END';
CREATE PROCEDURE sink.touch(INOUT what sink.orders) LANGUAGE plpgsql AS 'BEGIN what.note := ''touched''; END';
GRANT EXECUTE ON PROCEDURE sink.touch TO sink_clerk;
CREATE FUNCTION sink.last_customer() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    found sink.customers.id%TYPE;
    everybody sink.customers[];
BEGIN
    SELECT max(id) INTO found FROM sink.customers;
    SELECT array_agg(c) INTO everybody FROM sink.customers c WHERE id = found;
    RETURN everybody[1].id;
END
$$;

CREATE TABLE sink.lines (
    order_id integer NOT NULL REFERENCES sink.orders MATCH FULL,
    line smallint NOT NULL,
    what text,
    PRIMARY KEY (order_id, line)
);
ALTER TABLE sink.lines REPLICA IDENTITY FULL;
ALTER TABLE sink.lines ADD CONSTRAINT lines_what CHECK (what <> '') NOT VALID;

CREATE TABLE sink.returns (
    id bigserial PRIMARY KEY,
    order_id integer,
    line smallint,
    reason text,
    CONSTRAINT returns_line FOREIGN KEY (order_id, line) REFERENCES sink.lines ON DELETE SET NULL (order_id, line)
);
ALTER TABLE sink.returns ADD CONSTRAINT returns_unproven FOREIGN KEY (order_id) REFERENCES sink.orders NOT VALID;

-- Tables that hold no key that changes, but look at those that do.
CREATE TABLE sink.parcels (
    number bigint PRIMARY KEY,
    "name" text,
    code varchar(10),
    order_uuid uuid REFERENCES sink.orders (uuid_) ON DELETE SET NULL
);
CREATE POLICY parcels_of ON sink.parcels USING (order_uuid IN (SELECT uuid_ FROM sink.orders));

CREATE VIEW sink.big_orders WITH (security_barrier = true) AS
    SELECT o.id, o.customer, o.total, c."Name" AS who
    FROM sink.orders o JOIN sink.customers c ON c.id = o.customer
    WHERE o.total > 100;
ALTER VIEW sink.big_orders ALTER COLUMN total SET DEFAULT 7;
ALTER VIEW sink.big_orders OWNER TO sink_owner;
COMMENT ON VIEW sink.big_orders IS 'worth a call';
COMMENT ON COLUMN sink.big_orders.who IS 'whom to call';
GRANT SELECT ON sink.big_orders TO sink_reader;
GRANT UPDATE (total) ON sink.big_orders TO sink_clerk;
CREATE TRIGGER big_orders_instead INSTEAD OF INSERT ON sink.big_orders FOR EACH ROW EXECUTE FUNCTION sink.keep();
CREATE VIEW sink.biggest AS SELECT max(total) AS total, customer FROM sink.big_orders GROUP BY customer;
CREATE VIEW sink.own_names AS SELECT id, "Name" FROM sink.customers WITH LOCAL CHECK OPTION;
CREATE VIEW sink.grouped AS SELECT c.id, c."Name", count(o.id) AS orders
    FROM sink.customers c LEFT JOIN sink.orders o ON o.customer = c.id GROUP BY c.id;
CREATE MATERIALIZED VIEW sink.totals WITH (fillfactor = 70) AS
    SELECT customer, sum(total) AS total FROM sink.orders GROUP BY customer;
CREATE UNIQUE INDEX totals_customer ON sink.totals (customer);
COMMENT ON MATERIALIZED VIEW sink.totals IS 'by night';
GRANT SELECT ON sink.totals TO sink_reader;
CREATE MATERIALIZED VIEW sink.never AS SELECT id FROM sink.customers WITH NO DATA;
CREATE VIEW sink.top AS SELECT * FROM sink.totals ORDER BY total DESC LIMIT 10;

CREATE FUNCTION sink.count_orders() RETURNS bigint LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT count(*) FROM sink.orders;
END;
CREATE FUNCTION sink.old_style(bigint) RETURNS numeric LANGUAGE sql STABLE
    AS 'SELECT sum(total) FROM sink.orders WHERE customer = $1';

CREATE PUBLICATION sink_some FOR TABLE sink.lines, sink.countries;

INSERT INTO sink.customers ("Name", code, born, referred_by)
    SELECT 'n' || i, 'c' || i, '2000-01-01', CASE WHEN i > 1 THEN 1 END FROM generate_series(1, 20) i;
INSERT INTO sink.orders (customer, total)
    SELECT 1 + 3 * (i % 20), i * 10 FROM generate_series(1, 50) i;
INSERT INTO sink.lines SELECT id, 1, 'w' FROM sink.orders;
INSERT INTO sink.returns (order_id, line, reason) SELECT id, 1, 'r' FROM sink.orders ORDER BY id LIMIT 10;
INSERT INTO sink.parcels (number, order_uuid) SELECT row_number() OVER (), uuid_ FROM sink.orders;
REFRESH MATERIALIZED VIEW sink.totals;
