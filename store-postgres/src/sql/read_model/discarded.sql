SELECT position, partition, event, stream, stream_version, event_type, error, attempts, parked_at, reason
  FROM indelible.indelible_discarded
 WHERE projection = $1 AND version = $2 AND position > $3 ORDER BY position LIMIT $4
