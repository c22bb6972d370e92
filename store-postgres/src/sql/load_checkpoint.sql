-- $1 reader
SELECT position, event_id FROM indelible.checkpoints WHERE reader = $1
