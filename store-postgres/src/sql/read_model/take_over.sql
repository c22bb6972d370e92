SELECT indelible.indelible_take_over($1, $2)
