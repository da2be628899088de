-- What nobody's schema has all of: names, rights and neighbours that trip tools up.
CREATE SCHEMA "My Schema";
-- Names with blanks, quotes, braces, percent signs, reserved words; and of 63 bytes, in other alphabets.
CREATE TABLE "My Schema"."select" (
    "Id " int PRIMARY KEY,
    "user" text,
    "naïve ""quoted"" col" int,
    "%s" text,
    "a%b" int DEFAULT 5 CHECK ("a%b" > 0)
);
CREATE TABLE "My Schema"."tab{le}" (
    "from" int REFERENCES "My Schema"."select", "$1" int, PRIMARY KEY ("from", "$1")
);
CREATE INDEX "idx {} %s" ON "My Schema"."tab{le}" ("from") WHERE "$1" % 2 = 0;
CREATE FUNCTION "My Schema"."trg fn"() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER "my ; trigger" BEFORE INSERT ON "My Schema"."select" FOR EACH ROW
    WHEN (NEW."%s" LIKE 'a%s') EXECUTE FUNCTION "My Schema"."trg fn"('100%', '{}');
CREATE VIEW "My Schema"."v %s {}" AS
    SELECT "Id ", "user" || '%s {}' AS "x{}" FROM "My Schema"."select" WHERE "user" LIKE '%a%';
COMMENT ON TABLE "My Schema"."select" IS '100% {} %s %(x)s';
COMMENT ON COLUMN "My Schema"."select"."%s" IS '100% {} %s %(x)s';
CREATE TABLE "üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü" ("ééééééééééééééééééééééééééééééé" int PRIMARY KEY);
CREATE TABLE tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt (
    cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc serial PRIMARY KEY,
    "ééééééééééééééééééééééééééééééé" int REFERENCES "üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü",
    iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii int GENERATED ALWAYS AS IDENTITY UNIQUE
);
-- Two that refer to each other, and one sequence for both. Rows are made by a trigger of one for the other.
CREATE SEQUENCE shared;
CREATE TABLE hen (id int PRIMARY KEY DEFAULT nextval('shared'), egg int);
CREATE TABLE egg (id int PRIMARY KEY DEFAULT nextval('shared'), hen int NOT NULL REFERENCES hen ON DELETE CASCADE);
ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED;
ALTER SEQUENCE shared OWNED BY hen.id;
-- The same foreign key twice.
ALTER TABLE egg ADD CONSTRAINT again FOREIGN KEY (hen) REFERENCES hen ON DELETE CASCADE;
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE CONSTRAINT TRIGGER watches AFTER INSERT ON hen FROM egg DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION watch();
-- No primary key, but another that will do; columns that were dropped; a row that is compared as a whole.
CREATE TABLE nest (gone int, hen int NOT NULL, place int NOT NULL, also_gone text, CHECK (nest IS NOT NULL));
ALTER TABLE nest DROP COLUMN gone, DROP COLUMN also_gone, ADD COLUMN twigs int DEFAULT 7 NOT NULL;
CREATE UNIQUE INDEX nest_place ON nest (hen, place) INCLUDE (twigs);
ALTER TABLE nest ADD FOREIGN KEY (hen) REFERENCES hen;
ALTER TABLE nest REPLICA IDENTITY USING INDEX nest_place;
-- A view over a query that has a name of its own called like a table.
CREATE VIEW hens AS WITH RECURSIVE hen AS (
    SELECT id, 1 AS depth FROM public.hen UNION SELECT e.id, hen.depth + 1 FROM hen JOIN egg e ON e.hen = hen.id
    WHERE hen.depth < 3
) SELECT * FROM hen;
CREATE MATERIALIZED VIEW nests AS SELECT hen, count(*) AS nests FROM nest GROUP BY hen;
-- What has the same names in another schema, and the key in it.
CREATE SEQUENCE "My Schema".shared;
CREATE TABLE "My Schema".hen (
    nr int PRIMARY KEY DEFAULT nextval('"My Schema".shared'),
    hen int REFERENCES public.hen ON DELETE CASCADE,
    place int GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME "My Schema".eggs)
);
ALTER SEQUENCE "My Schema".shared OWNED BY "My Schema".hen.nr;
CREATE INDEX nest_place ON "My Schema".hen (hen, place);
CREATE STATISTICS henhouse ON id, egg FROM hen;
CREATE STATISTICS "My Schema".henhouse ON hen, place FROM "My Schema".hen;
CREATE VIEW "My Schema".hens AS SELECT h.*, hens.depth FROM "My Schema".hen h JOIN public.hens ON hens.id = h.hen;
-- Rules: of a table, of a view, of a neighbour, and one that is off.
CREATE TABLE laid (hen bigint, how text);
CREATE RULE "noted 100%" AS ON DELETE TO egg WHERE OLD.hen > 50 DO ALSO INSERT INTO laid VALUES (OLD.hen, 'gone %s');
COMMENT ON RULE "noted 100%" ON egg IS '100% {} %s';
CREATE RULE quiet AS ON DELETE TO nest DO INSTEAD NOTHING;
ALTER TABLE nest DISABLE RULE quiet;
CREATE RULE lay AS ON INSERT TO "My Schema".hens DO INSTEAD INSERT INTO egg (hen) VALUES (NEW.hen);
CREATE RULE forget AS ON DELETE TO laid DO ALSO DELETE FROM egg WHERE hen = OLD.hen AND OLD.how = 'lost';
CREATE VIEW nothing AS SELECT 1 AS hen;
CREATE RULE something AS ON UPDATE TO nothing DO INSTEAD UPDATE nest SET twigs = NEW.hen WHERE hen = NEW.hen;
-- Rights: what a new object would get by default and the old one has not, and an owner who has none.
DO $$ BEGIN CREATE ROLE odd_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO odd_reader;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO odd_reader;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO odd_reader;
REVOKE ALL ON nests FROM CURRENT_USER;
GRANT SELECT (id), REFERENCES (id) ON hen TO odd_reader;
GRANT UPDATE (twigs) ON nest TO PUBLIC;
-- Somebody who looks at every DDL.
CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM tg_tag; END';
CREATE EVENT TRIGGER looking ON ddl_command_end EXECUTE FUNCTION look();

INSERT INTO "My Schema"."select" SELECT i, 'an%s', 2, 'x' FROM generate_series(1, 200) i;
INSERT INTO "My Schema"."tab{le}" SELECT i, i FROM generate_series(1, 200) i;
INSERT INTO "üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü" SELECT generate_series(1, 50);
INSERT INTO tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt ("ééééééééééééééééééééééééééééééé")
SELECT generate_series(1, 50);
INSERT INTO hen SELECT FROM generate_series(1, 100);
INSERT INTO egg (hen) SELECT id FROM hen;
UPDATE hen SET egg = (SELECT min(id) FROM egg WHERE egg.hen = hen.id);
INSERT INTO "My Schema".hen (hen) SELECT id FROM hen;
INSERT INTO nest SELECT id, 1 FROM hen;
REFRESH MATERIALIZED VIEW nests;
