SELECT indelible.indelible_reset($1, $2, $3, $4)
