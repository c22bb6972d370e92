-- What roles may do: SELECT indelible.grant_writer('shop').
--
-- A reader reads. A writer also appends, by the two functions that do so, and keeps snapshots; it can't insert events
-- by itself, and nobody can change or delete one. A projection reads, and keeps its checkpoint.
CREATE FUNCTION grant_reader(role name) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
    EXECUTE format('GRANT SELECT ON store, kinds, log, tags, events, snapshots, checkpoints TO %I', role);
    -- Everybody may, unless the database's defaults say otherwise.
    EXECUTE format('GRANT EXECUTE ON FUNCTION as_json, item_kinds, item_positions, filtered_places TO %I', role);
END
$$;

CREATE FUNCTION grant_writer(role name) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM grant_reader(role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION append, append_foreseen TO %I', role);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE ON snapshots TO %I', role);
END
$$;

CREATE FUNCTION grant_projection(role name) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM grant_reader(role);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE ON checkpoints TO %I', role);
END
$$;
REVOKE EXECUTE ON FUNCTION grant_reader, grant_writer, grant_projection FROM PUBLIC;
