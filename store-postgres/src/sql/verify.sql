-- What is not as it must be, in words, up to a hundred of each kind. Reads all there is.
WITH head AS (SELECT coalesce(max(position), 0) AS position FROM indelible.log),
in_order AS (
    SELECT position, recorded_at, ends_append, stream, version, id,
           lag(position, 1, 0::bigint) OVER log AS position_before, lag(recorded_at) OVER log AS recorded_before,
           lag(version, 1, 0::bigint) OVER stream AS version_before,
           lag(position, 1, 0::bigint) OVER stream AS position_of_before,
           lag(closes_stream, 1, false) OVER stream AS closed_before
    FROM indelible.log
    WINDOW log AS (ORDER BY position), stream AS (PARTITION BY stream ORDER BY version)
)
(SELECT format('the positions between %s and %s are missing', position_before, position) FROM in_order
 WHERE position <> position_before + 1 LIMIT 100)
UNION ALL
(SELECT format('position %s was recorded before its predecessor', position) FROM in_order
 WHERE recorded_at < recorded_before LIMIT 100)
UNION ALL
(SELECT format('version %s of %s follows version %s', version, stream, version_before) FROM in_order
 WHERE version <> version_before + 1 OR position <= position_of_before LIMIT 100)
UNION ALL
(SELECT format('version %s of %s follows the one that closed it', version, stream) FROM in_order
 WHERE closed_before LIMIT 100)
UNION ALL
(SELECT format('the log ends at position %s in the middle of an append', l.position)
 FROM indelible.log l JOIN head USING (position) WHERE NOT l.ends_append)
UNION ALL
(SELECT format('the event at position %s is of a kind that is not there', l.position)
 FROM indelible.log l LEFT JOIN indelible.kinds k USING (kind)
 WHERE k.kind IS NULL OR k.category <> split_part(l.stream, '-', 1) LIMIT 100)
UNION ALL
(SELECT format('the tags of the event at position %s are not those in the index', coalesce(l.position, i.position))
 FROM (SELECT position, tag FROM indelible.log, string_to_table(tags, E'\n') tag) l
 FULL JOIN indelible.tags i USING (position, tag)
 WHERE l.position IS NULL OR i.position IS NULL LIMIT 100)
UNION ALL
(SELECT format('the checkpoint of %s is at position %s, where the log holds another event', c.reader, c.position)
 FROM indelible.checkpoints c LEFT JOIN indelible.log l USING (position)
 WHERE c.position > 0 AND l.id IS DISTINCT FROM c.event_id LIMIT 100)
