UPDATE indelible.indelible_partitions SET owner = NULL, leased_until = NULL
 WHERE projection = $1 AND version = $2 AND partition = $3 AND epoch = $4
