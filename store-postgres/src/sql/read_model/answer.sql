UPDATE indelible.indelible_wishes SET letters = $4, error = $5
 WHERE projection = $1 AND version = $2 AND wish = $3 AND letters IS NULL
