-- as the function filtered_places, of whose last place the row has a position alone. The inner SELECT keeps the planner from
-- calling the function as well, and LIMIT has it look for each place by itself, whatever is known of the table's size then
SELECT place, version, recorded_at, id, correlation_id, causation_id, kind, closes_stream, ends_append, stream, tags,
       metadata::text, data
FROM unnest((SELECT indelible.filtered_places($1, $2, $3, $4, $5, $6, $7, $8, $9, $10))) WITH ORDINALITY places (place, n)
LEFT JOIN LATERAL (SELECT * FROM indelible.log WHERE position = place LIMIT 1) event ON true
ORDER BY n
