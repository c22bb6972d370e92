-- What the handler does next, it does in the schema of its version.
SELECT indelible.indelible_advance($1, $2, $3, $4, $5, $6, $7, $8), set_config('search_path', $9, true)
