SELECT partition, epoch, store, position, event, updated_at, stopped,
       CASE WHEN leased_until > clock_timestamp() THEN owner END AS owner,
       (SELECT count(DISTINCT d.stream) FROM indelible.indelible_dead_letters d
         WHERE (d.projection, d.version, d.partition) = (p.projection, p.version, p.partition)) AS parked
  FROM indelible.indelible_partitions p WHERE projection = $1 AND version = $2 ORDER BY partition
