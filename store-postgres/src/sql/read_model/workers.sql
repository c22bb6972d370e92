-- All of them, or those of a version.
SELECT projection, version, worker, host, since, troubled FROM indelible.indelible_workers
 WHERE expires_at > clock_timestamp() AND ($1::text IS NULL OR (projection, version) = ($1, $2))
 ORDER BY worker, projection, version
