UPDATE indelible.indelible_partitions SET stopped = $5
 WHERE projection = $1 AND version = $2 AND partition = $3 AND epoch = $4
