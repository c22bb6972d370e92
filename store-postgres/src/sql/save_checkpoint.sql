-- $1 reader, $2 position, $3 event id
INSERT INTO indelible.checkpoints (reader, position, event_id) VALUES ($1, $2, $3)
ON CONFLICT (reader) DO UPDATE SET position = excluded.position, event_id = excluded.event_id,
    saved_at = clock_timestamp()
