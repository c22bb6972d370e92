-- Writes a batch of appends whose outcome the caller has foreseen, or nothing: where anything is not as expected, or is
-- not known here, `append` is called and decides. Most batches are like this, and so they take half of the time.
--
-- As in `append`: a transaction of its own, the lock first, plans for a log of any size. Where an array that is marked
-- with * has nothing but NULL or what its comment says in it, NULL stands for it. An id that the log has already is left
-- to the constraint, as is a stream that others have written meanwhile: then the call fails. What the caller knows is of one
-- run of the server: one that has taken over may lack the log's end, and have another in its place. Each statement and each index
-- it looks at costs a lone append some microseconds before it has done anything, so there are few.
CREATE FUNCTION append_foreseen(
    call uuid, known_position bigint, known_id uuid, asynchronous boolean, at_least timestamptz, -- as for `append`
    server timestamptz,                     -- when it was started that the caller knows the following of
    s_known_at bigint,                      -- the last position of the log while the caller knows streams' versions;
                                            -- -1: it believes that they have not been written since
    streams text[], s_known bigint[], s_version bigint[], -- * streams that are written or expected (not *), the version
                                            -- that each has if that is still so (believed only of written ones: where it
                                            -- is wrong the constraint says so), and the one that it must have
    e_stream integer[], e_nth bigint[],     -- * the stream of each event (its own number), which of its events there (1)
    e_kind integer[], e_id uuid[], e_correlation_id uuid[], e_causation_id uuid[], -- * but kinds, ids and data
    e_ends_append boolean[], e_tags text[], e_metadata text[], e_data bytea[], -- * (true for the ends)
    OUT is_written boolean,
    OUT head bigint,                        -- the last position before the batch
    OUT at timestamptz,                     -- when the batch was recorded
    OUT s_head bigint[]                     -- the version of each stream before the batch; negative where it is closed
) LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    head_id uuid;
    is_known boolean;
    is_other boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(s.lock) FROM store s;

    -- The facts.
    SELECT l.position, l.id, greatest(l.recorded_at, at_least, clock_timestamp()),
            NOT EXISTS (SELECT FROM fences f WHERE f.call = append_foreseen.call)
        INTO head, head_id, at, is_written
        FROM log l ORDER BY l.position DESC LIMIT 1;
    is_written := is_written IS TRUE
        AND pg_postmaster_start_time() = server
        AND current_setting('transaction_isolation') = 'read committed'
        AND (asynchronous OR 'off' NOT IN (current_setting('synchronous_commit'), current_setting('fsync')));
    IF known_position = head THEN
        is_written := is_written AND known_id = head_id;
    ELSIF known_position > 0 THEN
        is_written := is_written AND EXISTS (SELECT FROM log l WHERE l.position = known_position AND l.id = known_id);
    END IF;
    is_known := s_known_at IN (head, -1);
    IF is_known AND s_known IS NOT NULL AND array_position(s_known, NULL) IS NULL THEN
        -- The caller has compared them.
        s_head := s_known;
    ELSE
        SELECT array_agg(s.version), bool_or(s.version < 0 OR s.version <> s_version[s.n]) INTO s_head, is_other
            FROM (SELECT n, coalesce(
                    CASE WHEN is_known THEN s_known[n] END,
                    (SELECT CASE WHEN l.closes_stream THEN -l.version ELSE l.version END
                     FROM log l WHERE l.stream = streams[n] ORDER BY l.version DESC LIMIT 1), 0) version
                FROM generate_series(1, cardinality(streams)) n OFFSET 0) s;
    END IF;
    -- The judgement.
    IF NOT is_written OR is_other THEN
        is_written := false;
        RETURN;
    END IF;
    IF asynchronous THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;

    -- The events.
    INSERT INTO log (position, version, recorded_at, id, correlation_id, causation_id, kind, closes_stream, ends_append,
                     stream, tags, metadata, data)
        SELECT head + n, s_head[coalesce(e_stream[n], n)] + coalesce(e_nth[n], 1), at, e_id[n], e_correlation_id[n],
            e_causation_id[n], e_kind[n], false, coalesce(e_ends_append[n], true), streams[coalesce(e_stream[n], n)],
            e_tags[n], e_metadata[n]::jsonb, e_data[n]
        FROM generate_series(1, cardinality(e_id)) n;
    IF e_tags IS NOT NULL THEN
        INSERT INTO tags (tag, position)
            SELECT t, head + n FROM generate_series(1, cardinality(e_id)) n, string_to_table(e_tags[n], E'\n') t;
    END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION append_foreseen FROM PUBLIC;
