-- What is due of sagas: one row for each saga and item, found by partition and time.
CREATE TABLE agenda (
    saga text COLLATE "C",
    item text COLLATE "C",
    partition integer NOT NULL,
    due timestamptz NOT NULL,
    attempt integer NOT NULL,
    PRIMARY KEY (saga, item)
);
CREATE INDEX agenda_due ON agenda (partition, due, saga, item)
