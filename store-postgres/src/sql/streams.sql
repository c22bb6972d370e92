-- $1 the name that they come after, $2 the one that they come before, $3 how many. Leaps from one stream to the next in
-- the index, so that it costs what it returns.
WITH RECURSIVE found (stream) AS (
    (SELECT stream FROM indelible.log WHERE stream > $1 AND ($2::text IS NULL OR stream < $2) ORDER BY stream LIMIT 1)
    UNION ALL
    SELECT (SELECT log.stream FROM indelible.log
            WHERE log.stream > found.stream AND ($2::text IS NULL OR log.stream < $2) ORDER BY log.stream LIMIT 1)
    FROM found WHERE found.stream IS NOT NULL
)
SELECT stream FROM found WHERE stream IS NOT NULL LIMIT $3
