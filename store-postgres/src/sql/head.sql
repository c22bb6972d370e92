SELECT position, id FROM indelible.log ORDER BY position DESC LIMIT 1
