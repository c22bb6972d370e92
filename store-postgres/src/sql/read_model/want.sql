INSERT INTO indelible.indelible_wanted AS w (projection, version, paused, building_events_per_second_max)
SELECT projection, version, coalesce($3, false), $4 FROM indelible.indelible_versions WHERE projection = $1 AND version = $2
ON CONFLICT (projection, version) DO UPDATE
   SET paused = coalesce($3, w.paused),
       building_events_per_second_max = coalesce($4, w.building_events_per_second_max)
RETURNING version
