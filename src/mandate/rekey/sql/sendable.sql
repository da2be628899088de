-- Whether values of all these types, and of what they are made of, can be sent in binary.
WITH RECURSIVE made_of (oid) AS (
    SELECT name::regtype::oid FROM unnest(%s::text[]) AS name
    UNION
    SELECT part.oid
    FROM made_of JOIN pg_catalog.pg_type AS t USING (oid)
    CROSS JOIN LATERAL (
        SELECT t.typelem WHERE t.typelem <> 0
        UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
                  WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS part (oid)
)
SELECT bool_and(t.typsend <> 0) FROM made_of JOIN pg_catalog.pg_type AS t USING (oid)
