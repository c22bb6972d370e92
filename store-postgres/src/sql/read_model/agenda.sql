-- What is due of sagas: one row for each saga and item, found by partition, kind and time. Its name keeps it from being shown as
-- the tables of projections are, so each type of saga can have one.
CREATE TABLE indelible_agenda (
    saga text COLLATE "C",
    item text COLLATE "C",
    partition integer NOT NULL,
    work smallint NOT NULL,
    due timestamptz NOT NULL,
    attempt integer NOT NULL,
    PRIMARY KEY (saga, item)
);
CREATE INDEX indelible_agenda_due ON indelible_agenda (partition, work, due, saga, item)
