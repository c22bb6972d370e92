-- $1 the name that they come after, $2 how many
SELECT DISTINCT category FROM indelible.kinds WHERE category > $1 ORDER BY category LIMIT $2
