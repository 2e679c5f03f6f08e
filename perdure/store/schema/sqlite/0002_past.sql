-- Snapshots on the way through an object's history, made while somebody looks at its past, so
-- that the next look need not begin at the first turn. Caches: any row may go at any time.
CREATE TABLE waypoint (
    oid     INTEGER NOT NULL,
    seq     INTEGER NOT NULL,     -- the turn it was taken after
    version TEXT NOT NULL,        -- the code that replayed up to there
    body    BLOB NOT NULL,
    PRIMARY KEY (oid, seq)
);
