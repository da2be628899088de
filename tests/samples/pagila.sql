-- A film rental in the manner of Pagila and dvdrental (PostgreSQL licence), written anew: constructs, not text.
-- Sequences that no column owns, a domain, an enum, arrays, tsvector with its trigger, an aggregate, functions in
-- three languages, views over views' tables, a materialised view, a partitioned table beside the change.
CREATE TYPE mpaa_rating AS ENUM ('G', 'PG', 'PG-13', 'R', 'NC-17');
CREATE DOMAIN year AS integer CONSTRAINT year_check CHECK (VALUE >= 1901 AND VALUE <= 2155);
CREATE DOMAIN "bıgint" AS bigint;

CREATE FUNCTION _group_concat(text, text) RETURNS text LANGUAGE sql IMMUTABLE
    AS $$ SELECT CASE WHEN $2 IS NULL THEN $1 WHEN $1 IS NULL THEN $2 ELSE $1 || ', ' || $2 END $$;
CREATE AGGREGATE group_concat(text) (SFUNC = _group_concat, STYPE = text);
CREATE FUNCTION last_updated() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN NEW.last_update = CURRENT_TIMESTAMP; RETURN NEW; END $$;

CREATE SEQUENCE actor_actor_id_seq;
CREATE SEQUENCE address_address_id_seq;
CREATE SEQUENCE customer_customer_id_seq;
CREATE SEQUENCE film_film_id_seq;
CREATE SEQUENCE inventory_inventory_id_seq;
CREATE SEQUENCE rental_rental_id_seq;
CREATE SEQUENCE payment_payment_id_seq;

CREATE TABLE language (language_id serial PRIMARY KEY, name character(20) NOT NULL);
CREATE TABLE category (category_id serial PRIMARY KEY, name text NOT NULL);
CREATE TABLE actor (
    actor_id integer DEFAULT nextval('actor_actor_id_seq'::regclass) NOT NULL,
    first_name text NOT NULL,
    last_name text NOT NULL,
    last_update timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT actor_pkey PRIMARY KEY (actor_id)
);
CREATE TABLE film (
    film_id integer DEFAULT nextval('film_film_id_seq'::regclass) NOT NULL,
    title text NOT NULL,
    description text,
    release_year year,
    language_id integer NOT NULL REFERENCES language ON UPDATE CASCADE ON DELETE RESTRICT,
    original_language_id integer REFERENCES language ON UPDATE CASCADE ON DELETE RESTRICT,
    rental_duration smallint DEFAULT 3 NOT NULL,
    rental_rate numeric(4,2) DEFAULT 4.99 NOT NULL,
    length smallint,
    rating mpaa_rating DEFAULT 'G'::mpaa_rating,
    last_update timestamptz DEFAULT now() NOT NULL,
    special_features text[],
    fulltext tsvector NOT NULL,
    revenue_projection numeric(5,2) GENERATED ALWAYS AS (rental_duration * rental_rate) STORED,
    CONSTRAINT film_pkey PRIMARY KEY (film_id)
);
CREATE TABLE film_actor (
    actor_id integer NOT NULL REFERENCES actor ON UPDATE CASCADE ON DELETE RESTRICT,
    film_id integer NOT NULL REFERENCES film ON UPDATE CASCADE ON DELETE RESTRICT,
    last_update timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (actor_id, film_id)
);
CREATE TABLE film_category (
    film_id integer NOT NULL REFERENCES film ON UPDATE CASCADE ON DELETE RESTRICT,
    category_id integer NOT NULL REFERENCES category ON UPDATE CASCADE ON DELETE RESTRICT,
    last_update timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (film_id, category_id)
);
CREATE TABLE address (
    address_id integer DEFAULT nextval('address_address_id_seq'::regclass) NOT NULL,
    address text NOT NULL,
    postal_code text,
    last_update timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT address_pkey PRIMARY KEY (address_id)
);
-- A store and its manager refer to each other: a circle, outside of what changes but for the address.
CREATE TABLE staff (
    staff_id serial PRIMARY KEY,
    first_name text NOT NULL,
    address_id integer NOT NULL REFERENCES address ON UPDATE CASCADE ON DELETE RESTRICT,
    store_id integer NOT NULL,
    picture bytea
);
CREATE TABLE store (
    store_id serial PRIMARY KEY,
    manager_staff_id integer NOT NULL UNIQUE REFERENCES staff ON UPDATE CASCADE ON DELETE RESTRICT,
    address_id integer NOT NULL REFERENCES address ON UPDATE CASCADE ON DELETE RESTRICT
);
CREATE TABLE customer (
    customer_id integer DEFAULT nextval('customer_customer_id_seq'::regclass) NOT NULL,
    store_id integer NOT NULL REFERENCES store ON UPDATE CASCADE ON DELETE RESTRICT,
    first_name text NOT NULL,
    last_name text NOT NULL,
    email text,
    address_id integer NOT NULL REFERENCES address ON UPDATE CASCADE ON DELETE RESTRICT,
    activebool boolean DEFAULT true NOT NULL,
    create_date date DEFAULT CURRENT_DATE NOT NULL,
    last_update timestamptz DEFAULT now(),
    CONSTRAINT customer_pkey PRIMARY KEY (customer_id)
);
CREATE TABLE inventory (
    inventory_id integer DEFAULT nextval('inventory_inventory_id_seq'::regclass) NOT NULL,
    film_id integer NOT NULL REFERENCES film ON UPDATE CASCADE ON DELETE RESTRICT,
    store_id integer NOT NULL REFERENCES store ON UPDATE CASCADE ON DELETE RESTRICT,
    CONSTRAINT inventory_pkey PRIMARY KEY (inventory_id)
);
CREATE TABLE rental (
    rental_id integer DEFAULT nextval('rental_rental_id_seq'::regclass) NOT NULL,
    rental_date timestamptz NOT NULL,
    inventory_id integer NOT NULL REFERENCES inventory ON UPDATE CASCADE ON DELETE RESTRICT,
    customer_id integer NOT NULL REFERENCES customer ON UPDATE CASCADE ON DELETE RESTRICT,
    return_date timestamptz,
    rental_period tstzrange GENERATED ALWAYS AS (tstzrange(rental_date, return_date)) STORED,
    CONSTRAINT rental_pkey PRIMARY KEY (rental_id)
);
CREATE TABLE payment (
    payment_id integer DEFAULT nextval('payment_payment_id_seq'::regclass) NOT NULL,
    customer_id integer NOT NULL,
    amount numeric(5,2) NOT NULL,
    payment_date timestamptz NOT NULL,
    PRIMARY KEY (payment_date, payment_id)
) PARTITION BY RANGE (payment_date);
CREATE TABLE payment_p2022_01 PARTITION OF payment FOR VALUES FROM ('2022-01-01') TO ('2022-02-01');
CREATE TABLE payment_p2022_02 PARTITION OF payment FOR VALUES FROM ('2022-02-01') TO ('2022-03-01');

CREATE INDEX idx_actor_last_name ON actor USING btree (last_name);
CREATE INDEX film_fulltext_idx ON film USING gist (fulltext);
CREATE INDEX idx_title ON film USING btree (title);
CREATE INDEX idx_fk_film_id ON film_actor USING btree (film_id);
CREATE INDEX idx_fk_address_id ON customer USING btree (address_id);
CREATE INDEX idx_fk_store_id ON customer USING btree (store_id);
CREATE INDEX idx_last_name ON customer USING btree (last_name);
CREATE INDEX idx_store_id_film_id ON inventory USING btree (store_id, film_id);
CREATE UNIQUE INDEX idx_unq_rental_rental_date_inventory_id_customer_id
    ON rental USING btree (rental_date, inventory_id, customer_id);

CREATE TRIGGER film_fulltext_trigger BEFORE INSERT OR UPDATE ON film FOR EACH ROW
    EXECUTE FUNCTION tsvector_update_trigger('fulltext', 'pg_catalog.english', 'title', 'description');
CREATE TRIGGER last_updated BEFORE UPDATE ON actor FOR EACH ROW EXECUTE FUNCTION last_updated();
CREATE TRIGGER last_updated BEFORE UPDATE ON address FOR EACH ROW EXECUTE FUNCTION last_updated();
CREATE TRIGGER last_updated BEFORE UPDATE ON customer FOR EACH ROW EXECUTE FUNCTION last_updated();
CREATE TRIGGER last_updated BEFORE UPDATE ON film FOR EACH ROW EXECUTE FUNCTION last_updated();
CREATE TRIGGER last_updated BEFORE UPDATE ON film_actor FOR EACH ROW EXECUTE FUNCTION last_updated();

CREATE VIEW actor_info AS
SELECT a.actor_id, a.first_name, a.last_name,
    group_concat(DISTINCT ((c.name || ': '::text) || (
        SELECT group_concat(f.title) AS group_concat
        FROM ((film f JOIN film_category fc_1 ON ((f.film_id = fc_1.film_id)))
            JOIN film_actor fa_1 ON ((f.film_id = fa_1.film_id)))
        WHERE ((fc_1.category_id = c.category_id) AND (fa_1.actor_id = a.actor_id))
        GROUP BY fa_1.actor_id))) AS film_info
FROM (((actor a
    LEFT JOIN film_actor fa ON ((a.actor_id = fa.actor_id)))
    LEFT JOIN film_category fc ON ((fa.film_id = fc.film_id)))
    LEFT JOIN category c ON ((fc.category_id = c.category_id)))
GROUP BY a.actor_id, a.first_name, a.last_name;
CREATE VIEW customer_list AS
SELECT cu.customer_id AS id, ((cu.first_name || ' '::text) || cu.last_name) AS name, a.address,
    a.postal_code AS "zip code", CASE WHEN cu.activebool THEN 'active'::text ELSE ''::text END AS notes,
    cu.store_id AS sid
FROM (customer cu JOIN address a ON ((cu.address_id = a.address_id)));
CREATE VIEW staff_list AS
SELECT s.staff_id AS id, s.first_name AS name, a.address, s.store_id AS sid
FROM staff s JOIN address a USING (address_id);
CREATE VIEW active_customer_list AS SELECT * FROM customer_list WHERE notes = 'active' WITH LOCAL CHECK OPTION;
CREATE MATERIALIZED VIEW rental_by_category AS
SELECT c.name AS category, count(*) AS rentals
FROM rental r JOIN inventory i USING (inventory_id) JOIN film f USING (film_id)
    JOIN film_category fc USING (film_id) JOIN category c USING (category_id)
GROUP BY c.name ORDER BY 2 DESC;
CREATE UNIQUE INDEX rental_category ON rental_by_category USING btree (category);

CREATE FUNCTION inventory_in_stock(p_inventory_id integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE v_rentals integer;
BEGIN
    SELECT count(*) INTO v_rentals FROM rental WHERE inventory_id = p_inventory_id AND return_date IS NULL;
    RETURN v_rentals = 0;
END $$;
CREATE FUNCTION film_in_stock(p_film_id integer, p_store_id integer, OUT p_film_count integer)
    RETURNS SETOF integer LANGUAGE sql AS $_$
    SELECT inventory_id FROM inventory
    WHERE film_id = $1 AND store_id = $2 AND inventory_in_stock(inventory_id);
$_$;
CREATE FUNCTION rewards_report(min_rentals integer) RETURNS SETOF customer LANGUAGE plpgsql SECURITY DEFINER AS $_$
DECLARE rr record;
BEGIN
    FOR rr IN EXECUTE 'SELECT c.* FROM customer c WHERE (SELECT count(*) FROM rental r'
        ' WHERE r.customer_id = c.customer_id) >= $1' USING min_rentals LOOP
        RETURN NEXT rr;
    END LOOP;
END $_$;
COMMENT ON FUNCTION rewards_report(integer) IS 'whom to thank';

INSERT INTO language (name) SELECT 'language ' || i FROM generate_series(1, 6) i;
INSERT INTO category (name) SELECT 'category ' || i FROM generate_series(1, 16) i;
INSERT INTO actor (first_name, last_name) SELECT 'first ' || i, 'last ' || i FROM generate_series(1, 200) i;
INSERT INTO film (title, description, release_year, language_id, length, rating, special_features)
SELECT 'film ' || i, 'a story of ' || i, 1950 + i % 70, 1 + i % 6, 60 + i % 120,
    (enum_range(NULL::mpaa_rating))[1 + i % 5], ARRAY['Trailers', 'Commentaries']
FROM generate_series(1, 1000) i;
INSERT INTO film_actor (actor_id, film_id) SELECT 1 + i % 200, 1 + i % 1000 FROM generate_series(1, 3000) i
    ON CONFLICT DO NOTHING;
INSERT INTO film_category (film_id, category_id) SELECT i, 1 + i % 16 FROM generate_series(1, 1000) i;
INSERT INTO address (address) SELECT i || ' High Street' FROM generate_series(1, 600) i;
INSERT INTO staff (first_name, address_id, store_id, picture) VALUES ('Mike', 3, 1, '\x8950'), ('Jon', 4, 2, NULL);
INSERT INTO store (manager_staff_id, address_id) VALUES (1, 1), (2, 2);
ALTER TABLE staff ADD CONSTRAINT staff_store_id_fkey FOREIGN KEY (store_id) REFERENCES store;
INSERT INTO customer (store_id, first_name, last_name, email, address_id)
SELECT 1 + i % 2, 'c' || i, 'l' || i, i || '@example.org', 1 + i % 600 FROM generate_series(1, 600) i;
INSERT INTO inventory (film_id, store_id) SELECT 1 + i % 1000, 1 + i % 2 FROM generate_series(1, 4000) i;
INSERT INTO rental (rental_date, inventory_id, customer_id, return_date)
SELECT '2022-01-01'::timestamptz + i * interval '5 min', 1 + i % 4000, 1 + i % 600,
    CASE WHEN i % 9 > 0 THEN '2022-03-01'::timestamptz + i * interval '5 min' END
FROM generate_series(1, 6000) i;
INSERT INTO payment (customer_id, amount, payment_date)
SELECT 1 + i % 600, i % 10, '2022-01-01'::timestamptz + i * interval '10 min' FROM generate_series(1, 5000) i;
REFRESH MATERIALIZED VIEW rental_by_category;
