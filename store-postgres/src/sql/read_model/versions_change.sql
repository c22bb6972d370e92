-- How versions come, are shown, and go. Each of these waits for the others, in any process, and for queries; not for long
-- at a time, since queries wait behind it: and where one that has several views meets it, it gives way before the server
-- has seen a deadlock (`deadlock_timeout`, one second) and ended the query.
CREATE FUNCTION indelible_in_turn() RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('lock_timeout', '500', true);
    PERFORM pg_advisory_xact_lock(hashtextextended('indelible read model ' || current_schema(), 0));
END
$$;

-- Makes a version known, with its schema. `false` where it is known.
CREATE FUNCTION indelible_make(
    the_projection text, the_version bigint, how_many integer, the_store uuid, head bigint, the_home text, the_setup text
) RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM indelible_in_turn();
    IF EXISTS (SELECT FROM indelible_versions v WHERE v.projection = the_projection AND v.version = the_version) THEN
        RETURN false;
    END IF;
    INSERT INTO indelible_versions (projection, version, partitions, replays_to, state, home, setup)
    SELECT the_projection, the_version, how_many, head,
           CASE WHEN EXISTS (SELECT FROM indelible_versions v WHERE v.projection = the_projection)
                THEN 'building' ELSE 'current' END,
           the_home, the_setup;
    INSERT INTO indelible_partitions (projection, version, partition, store)
    SELECT the_projection, the_version, n, the_store FROM generate_series(0, how_many - 1) n;
    EXECUTE format('CREATE SCHEMA %I', the_home);
    RETURN true;
END
$$;

-- What the views of a projection call while it is being rebuilt.
CREATE FUNCTION indelible_rebuilding(the_projection text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RAISE EXCEPTION '% is being rebuilt', the_projection USING ERRCODE = 'INDM4';
END
$$;

-- Brings the views of a projection to what its current version holds, but for tables named `indelible_…`. A view whose
-- columns fit is replaced, which keeps what was granted on it and what depends on it.
CREATE FUNCTION indelible_show(the_projection text) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    its   indelible_versions%ROWTYPE;
    shown text;
    query text;
BEGIN
    SELECT * INTO STRICT its FROM indelible_versions v
     WHERE v.projection = the_projection AND v.state IN ('current', 'rebuilding');
    FOR shown IN
        SELECT c.relname FROM pg_class c
         WHERE c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = its.home)
           AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
           AND NOT starts_with(c.relname::text, 'indelible_')
         ORDER BY c.relname
    LOOP
        IF to_regclass(format('%I.%I', current_schema(), shown)) IS NOT NULL AND NOT EXISTS
           (SELECT FROM indelible_views w WHERE w.name = shown AND w.projection = the_projection) THEN
            RAISE EXCEPTION 'the schema % shows another % already', current_schema(), shown USING ERRCODE = 'INDM3';
        END IF;
        query := format('SELECT * FROM %I.%I', its.home, shown);
        IF its.state = 'rebuilding' THEN
            query := query || format(' WHERE %I.indelible_rebuilding(%L)', current_schema(), the_projection);
        END IF;
        BEGIN
            EXECUTE format('CREATE OR REPLACE VIEW %I.%I AS %s', current_schema(), shown, query);
        EXCEPTION WHEN invalid_table_definition THEN
            EXECUTE format('DROP VIEW %I.%I', current_schema(), shown);
            EXECUTE format('CREATE VIEW %I.%I AS %s', current_schema(), shown, query);
        END;
        INSERT INTO indelible_views (name, projection) VALUES (shown, the_projection) ON CONFLICT DO NOTHING;
    END LOOP;
    FOR shown IN
        DELETE FROM indelible_views w WHERE w.projection = the_projection
           AND to_regclass(format('%I.%I', its.home, w.name)) IS NULL RETURNING w.name
    LOOP
        EXECUTE format('DROP VIEW IF EXISTS %I.%I', current_schema(), shown);
    END LOOP;
END
$$;

CREATE FUNCTION indelible_take_over(the_projection text, the_version bigint)
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    next    indelible_versions%ROWTYPE;
    seen    bigint;
    reached bigint;
BEGIN
    PERFORM indelible_in_turn();
    SELECT * INTO next FROM indelible_versions v WHERE v.projection = the_projection AND v.version = the_version;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such version' USING ERRCODE = 'INDM2';
    ELSIF next.state IN ('current', 'rebuilding') THEN
        RETURN;
    END IF;
    -- The current version stands still until this is committed, and does not go further then than the next one has.
    SELECT max(p.position) INTO seen FROM (
        SELECT p.position FROM indelible_partitions p JOIN indelible_versions v USING (projection, version)
         WHERE projection = the_projection AND v.state IN ('current', 'rebuilding') FOR SHARE OF p) p;
    SELECT min(p.position) INTO reached FROM indelible_partitions p
     WHERE p.projection = the_projection AND p.version = the_version;
    IF seen > reached THEN
        RAISE EXCEPTION 'it is at %, and the current version at %', reached, seen USING ERRCODE = 'INDM5';
    END IF;
    UPDATE indelible_versions v SET state = 'former'
     WHERE v.projection = the_projection AND v.state IN ('current', 'rebuilding');
    UPDATE indelible_versions v SET state = 'current' WHERE v.projection = the_projection AND v.version = the_version;
    PERFORM indelible_show(the_projection);
END
$$;

CREATE FUNCTION indelible_drop(the_projection text, the_version bigint)
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    doomed indelible_versions%ROWTYPE;
BEGIN
    PERFORM indelible_in_turn();
    SELECT * INTO doomed FROM indelible_versions v WHERE v.projection = the_projection AND v.version = the_version;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such version' USING ERRCODE = 'INDM2';
    ELSIF doomed.state IN ('current', 'rebuilding') THEN
        RAISE EXCEPTION 'it is the current version' USING ERRCODE = 'INDM3';
    END IF;
    -- Behind the batches that are under way.
    DELETE FROM indelible_partitions p WHERE p.projection = the_projection AND p.version = the_version;
    DELETE FROM indelible_discarded d WHERE d.projection = the_projection AND d.version = the_version;
    DELETE FROM indelible_versions v WHERE v.projection = the_projection AND v.version = the_version;
    EXECUTE format('DROP SCHEMA %I CASCADE', doomed.home);
END
$$;

CREATE FUNCTION indelible_reset(the_projection text, the_version bigint, the_store uuid, head bigint)
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    emptied indelible_versions%ROWTYPE;
    tables  text;
BEGIN
    PERFORM indelible_in_turn();
    UPDATE indelible_versions v
       SET replays_to = head,
           state = CASE WHEN v.state IN ('current', 'rebuilding') THEN 'rebuilding' ELSE 'building' END
     WHERE v.projection = the_projection AND v.version = the_version RETURNING * INTO emptied;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such version' USING ERRCODE = 'INDM2';
    END IF;
    UPDATE indelible_partitions p
       SET epoch = p.epoch + 1, store = the_store, position = 0, event = '00000000-0000-0000-0000-000000000000',
           updated_at = clock_timestamp(),
           -- Whoever has it finds out with the next heartbeat, also where it stands still and writes nothing.
           owner = NULL, leased_until = NULL, stopped = NULL
     WHERE p.projection = the_projection AND p.version = the_version;
    DELETE FROM indelible_dead_letters d WHERE d.projection = the_projection AND d.version = the_version;
    -- The views first, as a query locks them; the other way round, the two would wait for each other.
    IF emptied.state = 'rebuilding' THEN
        PERFORM indelible_show(the_projection);
    END IF;
    SELECT string_agg(format('%I.%I', emptied.home, c.relname), ', ') INTO tables FROM pg_class c
     WHERE c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = emptied.home)
       AND c.relkind IN ('r', 'p');
    IF tables IS NOT NULL THEN
        EXECUTE 'TRUNCATE ' || tables || ' RESTART IDENTITY';
    END IF;
END
$$;

-- Not where it was reset once more since somebody looked.
CREATE FUNCTION indelible_caught_up(the_projection text, the_version bigint)
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM indelible_in_turn();
    UPDATE indelible_versions v SET state = 'current'
     WHERE v.projection = the_projection AND v.version = the_version AND v.state = 'rebuilding'
       AND v.replays_to <= (SELECT min(p.position) FROM indelible_partitions p
                             WHERE p.projection = the_projection AND p.version = the_version);
    IF FOUND THEN
        PERFORM indelible_show(the_projection);
    END IF;
END
$$;
