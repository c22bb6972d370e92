-- $1 stream
SELECT version, event_id, fingerprint, taken_at, content_type, data FROM indelible.snapshots WHERE stream = $1
