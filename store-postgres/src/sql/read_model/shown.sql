SELECT version, state, ARRAY(SELECT w.name FROM indelible.indelible_views w WHERE w.projection = $1 ORDER BY w.name) AS views
  FROM indelible.indelible_versions WHERE projection = $1 AND state IN ('current', 'rebuilding')
