-- $1 stream
SELECT version, position, closes_stream FROM indelible.log WHERE stream = $1 ORDER BY version DESC LIMIT 1
