DELETE FROM indelible.indelible_wishes WHERE projection = $1 AND version = $2 AND wish = $3
RETURNING wish, partition, stream, position, reason, letters, error
