-- $1 stream
DELETE FROM indelible.snapshots WHERE stream = $1
