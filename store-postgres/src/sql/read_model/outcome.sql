DELETE FROM indelible.indelible_wishes
 WHERE projection = $1 AND version = $2 AND wish = $3 AND ($4 OR letters IS NOT NULL)
RETURNING letters, error
