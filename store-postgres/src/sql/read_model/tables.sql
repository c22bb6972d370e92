-- What is known of projections. Each statement runs with the read model's schema first in the search path, once, when it
-- is made. Names that begin with `indelible_` leave the others to the views of projections' tables.

CREATE TABLE indelible_format (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    format integer NOT NULL
);

CREATE TABLE indelible_versions (
    projection text COLLATE "C" NOT NULL,
    version    bigint  NOT NULL,
    partitions integer NOT NULL,
    replays_to bigint  NOT NULL,         -- the last event of its history
    state      text    NOT NULL CHECK (state IN ('building', 'current', 'rebuilding', 'former')),
    home       text COLLATE "C" NOT NULL UNIQUE,  -- the schema that has its tables
    setup      text    NOT NULL,         -- what made them
    made_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (projection, version)
);
CREATE UNIQUE INDEX indelible_one_is_shown ON indelible_versions (projection) WHERE state IN ('current', 'rebuilding');

-- Lease, fencing epoch and checkpoint of a partition are one row. It changes with each batch, so pages have room for it,
-- and are cleaned up often.
CREATE TABLE indelible_partitions (
    projection   text COLLATE "C" NOT NULL,
    version      bigint  NOT NULL,
    partition    integer NOT NULL,
    epoch        bigint  NOT NULL DEFAULT 0,
    store        uuid    NOT NULL,
    position     bigint  NOT NULL DEFAULT 0,
    event        uuid    NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    owner        text COLLATE "C",
    leased_until timestamptz,
    stopped      text,                -- why, until it is taken again
    PRIMARY KEY (projection, version, partition),
    FOREIGN KEY (projection, version) REFERENCES indelible_versions ON DELETE CASCADE
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE indelible_dead_letters (
    projection     text COLLATE "C" NOT NULL,
    version        bigint  NOT NULL,
    position       bigint  NOT NULL,
    partition      integer NOT NULL,
    event          uuid    NOT NULL,
    stream         text COLLATE "C" NOT NULL,
    stream_version bigint  NOT NULL,
    event_type     text COLLATE "C" NOT NULL,
    error          text,              -- NULL where it only waits behind another of its stream
    attempts       bigint  NOT NULL,
    parked_at      timestamptz NOT NULL,
    PRIMARY KEY (projection, version, position),
    FOREIGN KEY (projection, version) REFERENCES indelible_versions ON DELETE CASCADE
);
CREATE INDEX indelible_dead_letters_of_stream ON indelible_dead_letters (projection, version, stream, position);

CREATE TABLE indelible_discarded (
    LIKE indelible_dead_letters,
    reason       text NOT NULL,
    discarded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE indelible_workers (
    projection text COLLATE "C" NOT NULL,
    version    bigint NOT NULL,
    worker     text COLLATE "C" NOT NULL,
    host       text NOT NULL,
    since      timestamptz NOT NULL,
    troubled   bigint NOT NULL,       -- how many of its partitions have stopped, or wait
    seen_at    timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (projection, version, worker),
    FOREIGN KEY (projection, version) REFERENCES indelible_versions ON DELETE CASCADE
);

-- Which projection a view shows a table of.
CREATE TABLE indelible_views (
    name       text COLLATE "C" PRIMARY KEY,
    projection text COLLATE "C" NOT NULL
);
