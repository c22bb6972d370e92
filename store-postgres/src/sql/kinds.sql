-- $1 the kinds that are wanted
SELECT kind, type, schema_version, content_type FROM indelible.kinds WHERE kind = ANY ($1)
