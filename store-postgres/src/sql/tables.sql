-- What is kept. Each statement runs with the store's schema first in the search path, once, when the store is made.
-- Names are compared byte by byte, as everywhere in Indelible.

-- One row. `lock` is the number of the advisory lock that orders appends: random, so that stores in one database don't
-- meet.
CREATE TABLE store (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    id     uuid    NOT NULL,
    lock   bigint  NOT NULL,
    format integer NOT NULL
);

-- Kinds of events: what many events have in common stands here once.
CREATE TABLE kinds (
    kind           integer PRIMARY KEY,
    category       text COLLATE "C" NOT NULL,
    type           text COLLATE "C" NOT NULL,
    schema_version bigint NOT NULL,
    content_type   text COLLATE "C" NOT NULL,
    UNIQUE (category, type, schema_version, content_type)
);

-- The log. Rows are inserted by `append` and `append_foreseen` alone, and never change.
CREATE TABLE log (
    position       bigint      NOT NULL,
    version        bigint      NOT NULL,
    recorded_at    timestamptz NOT NULL,
    id             uuid        NOT NULL,
    correlation_id uuid,
    causation_id   uuid,
    kind           integer     NOT NULL,
    closes_stream  boolean     NOT NULL,
    ends_append    boolean     NOT NULL,
    stream         text COLLATE "C" NOT NULL,
    tags           text COLLATE "C",  -- in the order in which they were given, one a line
    metadata       jsonb,             -- a map of text, which comes out as it went in
    data           bytea       NOT NULL,
    CONSTRAINT log_position PRIMARY KEY (position),
    CONSTRAINT log_id UNIQUE (id),
    CONSTRAINT log_version UNIQUE (stream, version)
);
CREATE INDEX log_kind ON log (kind, position);
-- Payloads that don't fit into a page are compressed quickly.
ALTER TABLE log ALTER COLUMN data SET STORAGE EXTENDED;

CREATE TABLE tags (
    tag      text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (tag, position)
);

-- Calls of `append` whose answer was lost, and which must not write any more, should they come yet.
CREATE TABLE fences (
    call      uuid PRIMARY KEY,
    fenced_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE snapshots (
    stream       text COLLATE "C" PRIMARY KEY,
    version      bigint      NOT NULL,
    event_id     uuid        NOT NULL,
    fingerprint  uuid        NOT NULL,
    taken_at     timestamptz NOT NULL,
    content_type text        NOT NULL,
    data         bytea       NOT NULL
);

CREATE TABLE checkpoints (
    reader   text COLLATE "C" PRIMARY KEY,
    position bigint      NOT NULL,
    event_id uuid        NOT NULL,
    saved_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
