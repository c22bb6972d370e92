SELECT epoch, store, position, event, replays_to, parked FROM indelible.indelible_take($1, $2, $3, $4, $5)
