-- The embedded store, schema 1.
--
-- Two kinds of writing meet here. A commit touches two places alone: the row of its partition and
-- the end of `chunk`, so that it costs a handful of pages however many objects it is about. A
-- checkpoint touches an object's own places: its row, its snapshot, and one segment at the end of
-- `segment`.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,      -- schema, partitions, hash_seed, secret
    value BLOB NOT NULL
) WITHOUT ROWID;

-- The fence. Each write compares epoch (and tail) here, in its own transaction.
CREATE TABLE part (
    part       INTEGER PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    tail       INTEGER NOT NULL,  -- lsn of the last committed chunk
    checkpoint INTEGER NOT NULL,  -- the log begins behind it
    swept      INTEGER NOT NULL,  -- chunks up to it are gone; those up to checkpoint are going
    node       TEXT NOT NULL,     -- who claimed it last; for people
    CHECK (0 <= swept AND swept <= checkpoint AND checkpoint <= tail)
);

-- The log. A rowid table, and one column for partition and lsn, because a chunk then fills pages
-- by itself: a key of two columns costs a second page for each commit.
CREATE TABLE chunk (
    id   INTEGER PRIMARY KEY,     -- part * 2^40 + lsn
    body BLOB NOT NULL
);

-- A commit is an INSERT into this view: one statement, which is a transaction by itself. In a thread
-- each statement is a wait for the GIL; and inline, four statements cost twice as much as one.
CREATE VIEW append AS SELECT 0 AS part, 0 AS epoch, 0 AS lsn, x'' AS body;

CREATE TRIGGER append_chunk INSTEAD OF INSERT ON append BEGIN
    -- The fence: epoch and tail are compared in the write itself.
    UPDATE part
       SET tail = NEW.lsn,
           swept = min(checkpoint, swept + 4)
     WHERE part = NEW.part AND epoch = NEW.epoch AND tail = NEW.lsn - 1;
    SELECT RAISE(ABORT, 'fenced') WHERE changes() <> 1;
    INSERT INTO chunk (id, body) VALUES ((NEW.part << 40) + NEW.lsn, NEW.body);
    -- What a checkpoint has moved to history goes in passing, a few chunks with each commit: all
    -- of 8 MB at once would hold up the commits for 25 ms. More than one, so that it keeps up.
    DELETE FROM chunk
     WHERE id > (NEW.part << 40)
       AND id <= (NEW.part << 40) + (SELECT swept FROM part WHERE part = NEW.part);
END;

-- Messages under way at the checkpoint.
CREATE TABLE outbox (
    part INTEGER NOT NULL,
    n    INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (part, n)
) WITHOUT ROWID;

CREATE TABLE object (
    oid     INTEGER PRIMARY KEY,
    part    INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    key     TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    last    INTEGER NOT NULL,
    wake_at INTEGER NOT NULL,
    status  TEXT NOT NULL,
    detail  TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    version TEXT NOT NULL
);

CREATE INDEX object_name ON object (kind, key);
-- Partial: most objects wait for nothing, and hardly any is quarantined.
CREATE INDEX object_due ON object (wake_at) WHERE wake_at > 0 AND status = '';
CREATE INDEX object_status ON object (status, kind, key) WHERE status <> '';

-- Apart from `object`, so that a list of objects does not read heaps, and a row can change while
-- the snapshot behind it stays.
CREATE TABLE snapshot (
    oid  INTEGER PRIMARY KEY,
    body BLOB NOT NULL
);

-- Snapshots with suspended code in them, of a later turn than the one above: caches, which may be
-- thrown away at any time.
CREATE TABLE suspended (
    oid  INTEGER PRIMARY KEY,
    seq  INTEGER NOT NULL,
    body BLOB NOT NULL
);

-- History. In the order of writing with an index beside it: a table ordered by object would dirty
-- a page for each segment of a checkpoint.
CREATE TABLE segment (
    id    INTEGER PRIMARY KEY,
    oid   INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last  INTEGER NOT NULL,
    body  BLOB NOT NULL
);

CREATE UNIQUE INDEX segment_place ON segment (oid, first);

CREATE TABLE version (
    version TEXT PRIMARY KEY,
    bundle  BLOB NOT NULL,
    created INTEGER NOT NULL
);
