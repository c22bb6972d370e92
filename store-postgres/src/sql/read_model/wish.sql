WITH forgotten AS (DELETE FROM indelible.indelible_wishes WHERE asked_at < clock_timestamp() - interval '1 hour')
INSERT INTO indelible.indelible_wishes (projection, version, wish, partition, stream, position, reason)
SELECT projection, version, $3, $4, $5, $6, $7 FROM indelible.indelible_versions WHERE projection = $1 AND version = $2
RETURNING version
