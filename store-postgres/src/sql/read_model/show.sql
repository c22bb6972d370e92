SELECT indelible.indelible_show($1)
