-- How the values of types (their names as text) can be hashed so that different values have different hashes:
-- exactly: by the type itself, whose equal values are the same bytes; text: likewise, once compared byte by byte;
-- send: by what this function returns, which sends a value in binary; sendable: likewise, as part of a row, with what
-- it is made of.
WITH RECURSIVE given AS (
    SELECT place, name::regtype::oid AS oid FROM unnest(%s::text[]) WITH ORDINALITY AS given (name, place)
), made_of (place, oid) AS (
    SELECT place, oid FROM given
    UNION
    SELECT made_of.place, part.oid
    FROM made_of JOIN pg_catalog.pg_type AS t USING (oid)
    CROSS JOIN LATERAL (
        SELECT t.typelem WHERE t.typelem <> 0
        UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
                  WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS part (oid)
)
SELECT bool_and(t.typtype = 'e' OR t.typtype = 'd' OR t.oid IN (
           'boolean'::regtype, 'bytea'::regtype, '"char"'::regtype, 'date'::regtype, 'smallint'::regtype,
           'integer'::regtype, 'bigint'::regtype, 'oid'::regtype, 'uuid'::regtype, 'text'::regtype,
           'character varying'::regtype, 'time'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype
       )) AS exactly,
       bool_or(t.typtype <> 'd' AND t.oid IN ('text'::regtype, 'character varying'::regtype)) AS text,
       max(t.typsend::regproc::text) FILTER (
           WHERE t.typtype = 'b' AND t.typelem = 0 AND given.oid = t.oid AND t.typsend <> 0
       ) AS send,
       bool_and(t.typsend <> 0) AS sendable
FROM made_of JOIN pg_catalog.pg_type AS t USING (oid) JOIN given ON given.place = made_of.place
GROUP BY made_of.place
ORDER BY made_of.place
