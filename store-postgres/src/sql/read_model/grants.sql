-- Lets a role query, whatever version comes: SELECT read_models.indelible_grant_reader('reports').
CREATE FUNCTION indelible_grant_reader(role name) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO %I', current_schema(), role);
    EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON TABLES TO %I', current_schema(), role);
END
$$;
REVOKE EXECUTE ON FUNCTION indelible_grant_reader FROM PUBLIC;
