SELECT position, partition, event, stream, stream_version, event_type, error, attempts, parked_at
  FROM indelible.indelible_dead_letters
 WHERE projection = $1 AND version = $2 AND position > $3 AND stream = $5 ORDER BY position LIMIT $4
