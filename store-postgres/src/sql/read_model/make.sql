SELECT indelible.indelible_make($1, $2, $3, $4, $5, $6, $7)
