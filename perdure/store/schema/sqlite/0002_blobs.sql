-- What is too large for the log: results and items of steps. A blob is on disk before the entry that
-- names it is committed, and goes with the history that names it.

-- A rowid table, so that a large body fills pages of its own and the index beside it stays small.
CREATE TABLE blob (
    id   INTEGER PRIMARY KEY,
    part INTEGER NOT NULL,
    oid  INTEGER NOT NULL,
    name TEXT NOT NULL,
    seq  INTEGER NOT NULL,       -- the last turn that names it; 0: no turn in history does
    body BLOB NOT NULL
);

CREATE UNIQUE INDEX blob_place ON blob (oid, name);
-- Partial: a blob is unnamed only until the next checkpoint, or after a crash in between.
CREATE INDEX blob_unnamed ON blob (part, oid, name) WHERE seq = 0;
