-- Writes a batch of appends, or says of each why not. Events come from here and from `append_foreseen`, nowhere else.
--
-- Called in a transaction of its own, whose first act is the lock that orders appends: each statement after it sees all
-- that was committed by those who held it before. (A single SQL statement would not: its snapshot is older than its
-- lock.) Facts are read for the whole batch, appends are judged one after the other, each on what those before it leave,
-- and events are inserted for the whole batch. An error leaves nothing of it.
--
-- Plans are made once a connection and must be right for a log of any size, so that sequential scans are ruled out; with
-- what that does to their estimated costs, PostgreSQL would compile each of them (`jit`), which takes half a second.
--
-- Arrays are flat. Those that end in `_end` say for each append (or condition) where its part of another array ends; its
-- first starts behind the end of the one before. No event id is twice in a batch. Where an array that is marked with * has
-- nothing but NULL or false in it, NULL stands for it, which spares reading it.
CREATE FUNCTION append(
    call uuid, fenced uuid[],           -- this call, and those before it that must not write any more
    known_position bigint, known_id uuid, -- the last event that the caller has seen
    asynchronous boolean,               -- whether to answer before it is durable
    at_least timestamptz,               -- what time it is by what the caller has seen of the log, and since then
    streams text[],
    k_category text[], k_type text[], k_schema_version bigint[], k_content_type text[],   -- kinds
    a_events_end integer[], a_writes_end integer[], a_expects_end integer[], a_conditions_end integer[], -- appends
    w_stream integer[], w_count integer[], w_closes boolean[],  -- * for each append: a stream that it writes
    x_stream integer[], x_version bigint[],  -- for each append: what it expects of a stream; -1: that it exists
    c_after bigint[], c_items_end integer[], c_rivals_end integer[],  -- for each append: its conditions
    i_tags text[], i_categories text[], i_types text[],         -- for each condition: its items
    r_event integer[],                  -- for each condition: the events before it in the batch that match
    e_append integer[], e_write integer[], e_offset bigint[], e_kind integer[], e_id uuid[], e_correlation_id uuid[],
    e_causation_id uuid[], e_closes boolean[], e_tags text[], e_metadata text[], e_data bytea[], -- * but ids and data
    OUT server timestamptz,             -- when the server was started
    OUT head bigint, OUT head_id uuid,  -- the last event before the batch
    OUT at timestamptz,                 -- when the batch was recorded
    OUT outcome integer[],      -- of each append: 0 written, 1 an id is known, 2 conflict, 3 looks beyond the head
    OUT a_base bigint[],        -- of each append: position of its event n in the batch less n; of others the head
    OUT w_version bigint[],     -- of each stream written: its version before
    OUT f_append integer[], OUT f_index integer[], OUT f_found bigint[], -- what failed, by append: an expectation
    OUT f_what integer[],               -- (0), a closed stream (1), a condition (2), the one at an index
    OUT known integer[], OUT known_at bigint[], -- events whose ids were recorded before, and where
    OUT kind_ids integer[]      -- what stands for each kind in the log; NULL where nothing does
) LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    appends    constant integer := cardinality(a_events_end);
    conditions constant integer := cardinality(c_after);
    looked_to  bigint := 0;
    c_found    bigint[] := array_fill(NULL::bigint, ARRAY[conditions]);
    s_head     bigint[];  -- of each stream: its version, as the appends so far leave it; negative where it is closed
    a_known    boolean[] := array_fill(false, ARRAY[appends]);
    id_there   uuid;
    is_fenced  boolean;
    is_known   boolean;
    next       bigint;
    hit        bigint;
    failed     integer;
    e integer := 0; w integer := 0; x integer := 0; c integer := 0; i integer; r integer;
    w_first integer; c_first integer;
BEGIN
    server := pg_postmaster_start_time();
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'appends need the isolation level read committed' USING ERRCODE = 'INDE2';
    ELSIF asynchronous THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    ELSIF 'off' IN (current_setting('synchronous_commit'), current_setting('fsync')) THEN
        RAISE EXCEPTION 'synchronous_commit or fsync is off, and the store was not opened so' USING ERRCODE = 'INDE2';
    END IF;

    -- Conditions, as far as that can be done without keeping others waiting: the past doesn't change.
    IF conditions > 0 THEN
        SELECT coalesce(max(l.position), 0) INTO looked_to FROM log l;
        FOR c IN 1..conditions LOOP
            c_found[c] := first_match(i_tags, i_categories, i_types,
                CASE c WHEN 1 THEN 1 ELSE c_items_end[c - 1] + 1 END, c_items_end[c], c_after[c], looked_to);
        END LOOP;
        c := 0;
    END IF;

    PERFORM pg_advisory_xact_lock(s.lock) FROM store s;

    IF cardinality(fenced) > 0 THEN
        -- Nothing is under way for so long.
        DELETE FROM fences f WHERE f.fenced_at < clock_timestamp() - interval '7 days';
        INSERT INTO fences (call) SELECT unnest(fenced) ON CONFLICT DO NOTHING;
    END IF;
    -- The facts.
    SELECT h.position, h.id, h.recorded_at, (SELECT l.id FROM log l WHERE l.position = known_position),
            EXISTS (SELECT FROM fences f WHERE f.call = append.call), EXISTS (SELECT FROM log l WHERE l.id = ANY (e_id)),
            ARRAY(
                SELECT coalesce((SELECT CASE WHEN l.closes_stream THEN -l.version ELSE l.version END
                                 FROM log l WHERE l.stream = s.name ORDER BY l.version DESC LIMIT 1), 0)
                FROM unnest(streams) s (name)),
            ARRAY(
                SELECT (SELECT k.kind FROM kinds k WHERE k.category = b.category AND k.type = b.type
                            AND k.schema_version = b.schema_version AND k.content_type = b.content_type)
                FROM unnest(k_category, k_type, k_schema_version, k_content_type)
                    b (category, type, schema_version, content_type))
        INTO head, head_id, at, id_there, is_fenced, is_known, s_head, kind_ids
        FROM (VALUES (true)) one
        LEFT JOIN LATERAL (SELECT l.* FROM log l ORDER BY l.position DESC LIMIT 1) h ON true;
    head := coalesce(head, 0);
    -- Where the server's clock was set back, time goes on by the caller's.
    at := greatest(at, at_least, clock_timestamp());
    IF is_fenced THEN
        RAISE EXCEPTION 'this call was given up' USING ERRCODE = 'INDE3';
    ELSIF known_position > 0 AND id_there IS DISTINCT FROM known_id THEN
        RAISE EXCEPTION 'the log is not the one that this process has seen' USING ERRCODE = 'INDE4';
    END IF;
    IF is_known THEN
        SELECT array_agg(n::integer ORDER BY n), array_agg(l.position ORDER BY n) INTO known, known_at
            FROM unnest(e_id) WITH ORDINALITY i (id, n) JOIN log l ON l.id = i.id;
        FOR i IN 1..cardinality(known) LOOP
            a_known[e_append[known[i]]] := true;
        END LOOP;
    END IF;
    IF looked_to < head THEN
        FOR c IN 1..conditions LOOP
            IF c_found[c] IS NULL THEN
                c_found[c] := first_match(i_tags, i_categories, i_types,
                    CASE c WHEN 1 THEN 1 ELSE c_items_end[c - 1] + 1 END, c_items_end[c],
                    greatest(c_after[c], looked_to), head);
            END IF;
        END LOOP;
    END IF;

    -- The judgement.
    next := head;
    outcome := array_fill(0, ARRAY[appends]);
    a_base := array_fill(NULL::bigint, ARRAY[appends]);
    w_version := array_fill(NULL::bigint, ARRAY[cardinality(w_stream)]);
    f_append := '{}'; f_what := '{}'; f_index := '{}'; f_found := '{}';
    FOR a IN 1..appends LOOP
        w_first := w + 1;
        c_first := c + 1;
        IF a_known[a] THEN
            outcome[a] := 1;
            w := a_writes_end[a]; x := a_expects_end[a]; c := a_conditions_end[a]; e := a_events_end[a];
            CONTINUE;
        END IF;
        failed := cardinality(f_append);
        WHILE x < a_expects_end[a] LOOP
            x := x + 1;
            hit := abs(s_head[x_stream[x]]);
            IF hit <> x_version[x] AND NOT (x_version[x] = -1 AND hit > 0) THEN
                f_append := f_append || a; f_what := f_what || 0; f_index := f_index || x; f_found := f_found || hit;
            END IF;
        END LOOP;
        WHILE w < a_writes_end[a] LOOP
            w := w + 1;
            IF s_head[w_stream[w]] < 0 THEN
                f_append := f_append || a; f_what := f_what || 1; f_index := f_index || w;
                f_found := f_found || -s_head[w_stream[w]];
            END IF;
        END LOOP;
        WHILE c < a_conditions_end[a] LOOP
            c := c + 1;
            IF c_after[c] > next THEN
                outcome[a] := 3;
                f_append := f_append || a; f_what := f_what || 2; f_index := f_index || c; f_found := f_found || next;
                c := a_conditions_end[a];
                EXIT;
            END IF;
            hit := c_found[c];
            IF hit IS NULL AND c_rivals_end[c] > 0 THEN
                r := CASE c WHEN 1 THEN 1 ELSE c_rivals_end[c - 1] + 1 END;
                WHILE hit IS NULL AND r <= c_rivals_end[c] LOOP
                    hit := a_base[e_append[r_event[r]]] + r_event[r];
                    IF hit <= c_after[c] THEN
                        hit := NULL;
                    END IF;
                    r := r + 1;
                END LOOP;
            END IF;
            IF hit IS NOT NULL THEN
                f_append := f_append || a; f_what := f_what || 2; f_index := f_index || c; f_found := f_found || hit;
            END IF;
        END LOOP;
        IF cardinality(f_append) > failed THEN
            outcome[a] := greatest(outcome[a], 2);
        ELSE
            a_base[a] := next - e;
            next := next + a_events_end[a] - e;
            FOR i IN w_first..w LOOP
                hit := s_head[w_stream[i]];
                w_version[i] := hit;
                s_head[w_stream[i]] := CASE WHEN w_closes[i] THEN -(hit + w_count[i]) ELSE hit + w_count[i] END;
            END LOOP;
        END IF;
        e := a_events_end[a];
    END LOOP;
    IF next = head THEN
        IF is_known AND current_setting('synchronous_standby_names') <> '' THEN
            -- What is known was acknowledged by this server, and after a crash perhaps by no standby: a record in the
            -- log makes this answer wait for them.
            PERFORM pg_logical_emit_message(true, 'indelible', '');
        END IF;
        RETURN;
    END IF;

    -- The events.
    IF array_position(kind_ids, NULL) IS NOT NULL THEN
        INSERT INTO kinds (kind, category, type, schema_version, content_type)
            SELECT (SELECT coalesce(max(k.kind), 0) FROM kinds k) + row_number() OVER (),
                k_category[n], k_type[n], k_schema_version[n], k_content_type[n]
            FROM (SELECT DISTINCT b.kind FROM unnest(e_append, e_kind) b (append, kind)
                WHERE a_base[b.append] IS NOT NULL AND kind_ids[b.kind] IS NULL) missing (n);
        kind_ids := ARRAY(SELECT (
                SELECT k.kind FROM kinds k WHERE k.category = b.category AND k.type = b.type
                    AND k.schema_version = b.schema_version AND k.content_type = b.content_type)
            FROM unnest(k_category, k_type, k_schema_version, k_content_type)
                b (category, type, schema_version, content_type));
    END IF;
    INSERT INTO log (position, version, recorded_at, id, correlation_id, causation_id, kind, closes_stream, ends_append,
                     stream, tags, metadata, data)
        SELECT a_base[b.append] + b.n, w_version[b.write] + b.nth, at, b.id, b.correlation_id, b.causation_id,
            kind_ids[b.kind], coalesce(b.closes, false), b.n = a_events_end[b.append], streams[w_stream[b.write]], b.tags,
            b.metadata::jsonb, b.data
        FROM unnest(e_append, e_write, e_offset, e_kind, e_id, e_correlation_id, e_causation_id, e_closes, e_tags,
                    e_metadata, e_data) WITH ORDINALITY
            b (append, write, nth, kind, id, correlation_id, causation_id, closes, tags, metadata, data, n)
        WHERE a_base[b.append] IS NOT NULL;
    IF e_tags IS NOT NULL THEN
        INSERT INTO tags (tag, position)
            SELECT t, a_base[b.append] + b.n
            FROM unnest(e_append, e_tags) WITH ORDINALITY b (append, tags, n), string_to_table(b.tags, E'\n') t
            WHERE a_base[b.append] IS NOT NULL;
    END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION append FROM PUBLIC;
