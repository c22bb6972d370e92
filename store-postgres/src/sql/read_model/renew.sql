-- Registers a worker for a version, or says that it is still there, and renews its leases that have not run out. A row that
-- is locked belongs to a batch, which renews it itself. Workers that were not heard of for an hour are forgotten.
CREATE FUNCTION indelible_renew(
    the_projection text, the_version bigint, the_worker text, the_host text, is_there_since timestamptz,
    are_troubled bigint, lease_ms bigint
) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    until timestamptz := clock_timestamp() + lease_ms * interval '1 millisecond';
BEGIN
    INSERT INTO indelible_workers AS w (projection, version, worker, host, since, troubled, seen_at, expires_at)
    VALUES (the_projection, the_version, the_worker, the_host, is_there_since, are_troubled, clock_timestamp(), until)
    ON CONFLICT (projection, version, worker) DO UPDATE
       SET host = excluded.host, since = excluded.since, troubled = excluded.troubled,
           seen_at = excluded.seen_at, expires_at = excluded.expires_at;
    UPDATE indelible_partitions p SET leased_until = until
      FROM (SELECT o.partition FROM indelible_partitions o
             WHERE o.projection = the_projection AND o.version = the_version AND o.owner = the_worker
               AND o.leased_until > clock_timestamp()
               FOR NO KEY UPDATE SKIP LOCKED) o
     WHERE p.projection = the_projection AND p.version = the_version AND p.partition = o.partition;
    DELETE FROM indelible_workers w
     WHERE w.projection = the_projection AND w.version = the_version
       AND w.expires_at < clock_timestamp() - interval '1 hour';
END
$$;
