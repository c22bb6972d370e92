-- $1 the position that was seen last. The head, the event at that position, and whether this is a replica.
SELECT head.position, head.id, seen.id, pg_is_in_recovery()
FROM (VALUES (true)) one
LEFT JOIN LATERAL (SELECT position, id FROM indelible.log ORDER BY position DESC LIMIT 1) head ON true
LEFT JOIN LATERAL (SELECT id FROM indelible.log WHERE position = $1) seen ON true
