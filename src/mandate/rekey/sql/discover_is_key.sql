-- Whether the table has a unique key of exactly these columns (names in byte order).
SELECT EXISTS (
    SELECT FROM pg_index i
    WHERE i.indrelid = %(table)s::bigint::oid AND i.indisunique AND i.indisvalid
      AND i.indpred IS NULL AND i.indexprs IS NULL
      AND (
          SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C")
          FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
          WHERE k.place <= i.indnkeyatts
      ) = %(names)s::text[]
)
