SELECT indelible.indelible_drop($1, $2)
