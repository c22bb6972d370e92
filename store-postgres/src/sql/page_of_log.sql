-- $1 and $2 first and last position, $3 the most events
SELECT position, version, recorded_at, id, correlation_id, causation_id, kind, closes_stream, ends_append, stream, tags,
       metadata::text, data
FROM indelible.log WHERE position BETWEEN $1 AND $2 ORDER BY position LIMIT $3
