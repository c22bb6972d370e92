-- $1 stream, $2 version, $3 event id, $4 fingerprint, $5 taken at, $6 content type, $7 data
INSERT INTO indelible.snapshots (stream, version, event_id, fingerprint, taken_at, content_type, data)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (stream) DO UPDATE SET version = excluded.version, event_id = excluded.event_id,
    fingerprint = excluded.fingerprint, taken_at = excluded.taken_at, content_type = excluded.content_type,
    data = excluded.data
