-- $1 stream, $2 and $3 first and last version, $4 the most events, $5 about the most bytes
SELECT position, version, recorded_at, id, correlation_id, causation_id, kind, closes_stream, ends_append, stream, tags,
       metadata::text, data
FROM (SELECT *, sum(octet_length(data) + coalesce(octet_length(tags), 0) + coalesce(octet_length(metadata::text), 0) + 64)
          OVER (ORDER BY version DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
      FROM indelible.log WHERE stream = $1 AND version BETWEEN $2 AND $3 ORDER BY version DESC LIMIT $4) page
WHERE coalesce(bytes_before, 0) <= $5 ORDER BY version DESC
