-- The log for people: SELECT * FROM events WHERE stream = 'account-1' ORDER BY version.

-- The data where it is JSON that PostgreSQL can hold, else NULL: not all that is JSON is (`\u0000`, for one).
CREATE FUNCTION as_json(data bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN convert_from(data, 'UTF8')::jsonb;
EXCEPTION
    WHEN data_exception OR program_limit_exceeded THEN
        RETURN NULL;
END
$$;

CREATE VIEW events AS
SELECT position, stream, version, category, type, schema_version, recorded_at,
       CASE content_type WHEN 'application/json' THEN as_json(data) END AS data,
       string_to_array(tags, E'\n') AS tags, metadata, id, correlation_id, causation_id, content_type, closes_stream,
       ends_append, data AS bytes
FROM log JOIN kinds USING (kind);
