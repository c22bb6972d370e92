SELECT wish, partition, stream, position, reason FROM indelible.indelible_wishes
 WHERE projection = $1 AND version = $2 AND letters IS NULL AND asked_at > clock_timestamp() - interval '1 hour'
 ORDER BY asked_at, wish LIMIT 1000
