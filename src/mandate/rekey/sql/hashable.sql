-- How the values of types (their names as text) can be hashed so that different values have different hashes:
-- exactly: by the type itself, whose equal values are the same bytes, as part of a row, or by function(value, seed)
-- where this server has one; text: likewise, once compared byte by byte; send: by what this function returns, which
-- sends a value in binary; sendable: likewise, as part of a row, with what it is made of. type: its plain name.
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
SELECT max(given.oid::regtype::text) AS type,
       max(CASE
           WHEN t.typtype = 'e' THEN 'hashenumextended'
           ELSE (SELECT p.proname FROM pg_catalog.pg_amproc AS f
                 JOIN pg_catalog.pg_opclass AS c ON c.opcfamily = f.amprocfamily AND c.opcintype = f.amproclefttype
                 JOIN pg_catalog.pg_am AS a ON a.oid = c.opcmethod
                 JOIN pg_catalog.pg_proc AS p ON p.oid = f.amproc
                 WHERE a.amname = 'hash' AND c.opcdefault AND f.amprocnum = 2 AND f.amprocrighttype = f.amproclefttype
                   AND p.proargtypes[0] = f.amproclefttype AND p.pronamespace = 'pg_catalog'::regnamespace
                   AND f.amproclefttype = CASE t.oid WHEN 'character varying'::regtype THEN 'text'::regtype
                                                     ELSE t.oid END)
       END) FILTER (WHERE t.oid = given.oid) AS function,
       bool_and(t.typtype = 'e' OR t.typtype = 'd' OR t.oid IN (
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
