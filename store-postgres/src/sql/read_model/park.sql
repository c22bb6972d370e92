INSERT INTO indelible.indelible_dead_letters
    (projection, version, position, partition, event, stream, stream_version, event_type, error, attempts, parked_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
