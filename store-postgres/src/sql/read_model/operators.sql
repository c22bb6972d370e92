-- What operators want.

-- Of a version, where they ever wanted something of it.
CREATE TABLE indelible_wanted (
    projection text COLLATE "C" NOT NULL,
    version    bigint  NOT NULL,
    paused     boolean NOT NULL DEFAULT false,
    building_events_per_second_max bigint,   -- 0 for as many as it can, NULL where nobody has said
    PRIMARY KEY (projection, version),
    FOREIGN KEY (projection, version) REFERENCES indelible_versions ON DELETE CASCADE
);

-- Of whoever owns a partition. Who asks takes the wish back when it is answered; others are forgotten an hour later.
CREATE TABLE indelible_wishes (
    projection text COLLATE "C" NOT NULL,
    version    bigint  NOT NULL,
    wish       bigint  NOT NULL,
    partition  integer NOT NULL,
    stream     text COLLATE "C",        -- whose dead letters are to be ended; NULL where the partition is to be restarted
    position   bigint  NOT NULL,        -- of the last one that is to be handled, or of the one that is to be given up
    reason     text,                    -- why it is to be given up
    asked_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    letters    bigint,                  -- how many were ended; NULL until the owner has seen to it
    error      text,                    -- why that was not all
    PRIMARY KEY (projection, version, wish),
    FOREIGN KEY (projection, version) REFERENCES indelible_versions ON DELETE CASCADE
);
