-- The first statement of every batch: moves a checkpoint, and renews the lease. Raises unless the row is where the batch
-- believes it, with the epoch that it was taken with.
--
-- Without a sequential scan, however small the table: serializable transactions would meet at the rows that it reads.
CREATE FUNCTION indelible_advance(
    the_projection text, the_version bigint, the_partition integer, the_epoch bigint,
    from_position bigint, to_position bigint, to_event uuid, lease_ms bigint
) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    UPDATE indelible_partitions p
       SET position = to_position, event = to_event, updated_at = clock_timestamp(),
           leased_until = clock_timestamp() + lease_ms * interval '1 millisecond'
     WHERE p.projection = the_projection AND p.version = the_version AND p.partition = the_partition
       AND p.epoch = the_epoch AND p.position = from_position;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'partition % of %@% is not at % with the epoch %',
            the_partition, the_projection, the_version, from_position, the_epoch USING ERRCODE = 'INDM1';
    END IF;
END
$$;
