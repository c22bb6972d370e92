WITH gone AS (DELETE FROM indelible.indelible_workers WHERE projection = $1 AND version = $2 AND worker = $3)
UPDATE indelible.indelible_partitions SET owner = NULL, leased_until = NULL
 WHERE projection = $1 AND version = $2 AND owner = $3
