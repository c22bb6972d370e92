SELECT v.version, v.partitions, v.replays_to, v.state, v.setup, coalesce(w.paused, false) AS paused,
       w.building_events_per_second_max
  FROM indelible.indelible_versions v LEFT JOIN indelible.indelible_wanted w USING (projection, version)
 WHERE v.projection = $1 ORDER BY v.version
