SELECT partition, owner, extract(epoch FROM leased_until - clock_timestamp())::float8 FROM indelible.indelible_partitions
 WHERE projection = $1 AND version = $2 AND owner IS NOT NULL AND leased_until > clock_timestamp() ORDER BY partition
