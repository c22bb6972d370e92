-- Where sagas stand, a row for each step that one is at, and one for no step, '', for the saga as a whole; and how many
-- there are where, those that have ended by how, at no step. Their names keep them from being shown as the tables of
-- projections are, so each type of saga can have them.
CREATE TABLE indelible_standings (
    saga text COLLATE "C",
    step text COLLATE "C",
    doing text COLLATE "C" NOT NULL,
    since timestamptz NOT NULL,
    started timestamptz NOT NULL,
    PRIMARY KEY (saga, step)
);
CREATE INDEX indelible_standings_since ON indelible_standings (since, saga, step);
CREATE TABLE indelible_counts (
    doing text COLLATE "C",
    step text COLLATE "C",
    sagas bigint NOT NULL,
    took_ms bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (doing, step)
)
