WITH gone AS (
    DELETE FROM indelible.indelible_dead_letters WHERE projection = $1 AND version = $2 AND position = $3 RETURNING *
)
INSERT INTO indelible.indelible_discarded SELECT gone.*, $4 FROM gone RETURNING position
