SELECT indelible.indelible_caught_up($1, $2)
