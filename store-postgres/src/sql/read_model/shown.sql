SELECT version, state FROM indelible.indelible_versions WHERE projection = $1 AND state IN ('current', 'rebuilding')
