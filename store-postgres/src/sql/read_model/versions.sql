SELECT version, partitions, replays_to, state, setup FROM indelible.indelible_versions
 WHERE projection = $1 ORDER BY version
