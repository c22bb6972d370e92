-- as the function read_log
SELECT position, version, recorded_at, id, correlation_id, causation_id, kind, closes_stream, ends_append, stream, tags,
       metadata::text, data
FROM indelible.read_log($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
