-- Takes a partition where nobody else holds an unexpired lease: raises the epoch, and reads then. No row is the answer
-- where somebody does. A transaction that is still under way is waited for, but not so long that it keeps the caller from
-- renewing what it has.
CREATE FUNCTION indelible_take(
    the_projection text, the_version bigint, the_partition integer, the_worker text, lease_ms bigint
) RETURNS TABLE (epoch bigint, store uuid, "position" bigint, event uuid, replays_to bigint, parked text[])
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('lock_timeout', greatest(lease_ms / 6, 100)::text, true);
    UPDATE indelible_partitions p
       SET epoch = p.epoch + 1, owner = the_worker, stopped = NULL,
           leased_until = clock_timestamp() + lease_ms * interval '1 millisecond'
     WHERE p.projection = the_projection AND p.version = the_version AND p.partition = the_partition
       AND (p.owner IS NULL OR p.owner = the_worker OR p.leased_until <= clock_timestamp())
    RETURNING p.epoch, p.store, p.position, p.event INTO epoch, store, "position", event;
    IF FOUND THEN
        -- Statements of their own: they see what was done while the one before waited.
        SELECT v.replays_to INTO replays_to FROM indelible_versions v
         WHERE v.projection = the_projection AND v.version = the_version;
        SELECT coalesce(array_agg(DISTINCT d.stream), '{}') INTO parked FROM indelible_dead_letters d
         WHERE d.projection = the_projection AND d.version = the_version AND d.partition = the_partition;
        RETURN NEXT;
    ELSIF NOT EXISTS (SELECT FROM indelible_partitions p WHERE p.projection = the_projection
                         AND p.version = the_version AND p.partition = the_partition) THEN
        RAISE EXCEPTION 'there is no such partition' USING ERRCODE = 'INDM2';
    END IF;
END
$$;
