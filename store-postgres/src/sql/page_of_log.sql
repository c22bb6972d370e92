-- $1 and $2 first and last position, $3 the most events, $4 about the most bytes
SELECT position, version, recorded_at, id, correlation_id, causation_id, kind, closes_stream, ends_append, stream, tags,
       metadata::text, data
FROM (SELECT *, sum(octet_length(data) + coalesce(octet_length(tags), 0) + coalesce(octet_length(metadata::text), 0) + 64)
          OVER (ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
      FROM indelible.log WHERE position BETWEEN $1 AND $2 ORDER BY position LIMIT $3) page
WHERE coalesce(bytes_before, 0) <= $4 ORDER BY position
