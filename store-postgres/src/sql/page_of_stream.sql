-- $1 stream, $2 and $3 first and last version, $4 the most events
SELECT position, version, recorded_at, id, correlation_id, causation_id, kind, closes_stream, ends_append, stream, tags,
       metadata::text, data
FROM indelible.log WHERE stream = $1 AND version BETWEEN $2 AND $3 ORDER BY version LIMIT $4
