-- $1 position
SELECT position, id FROM indelible.log WHERE position = $1
