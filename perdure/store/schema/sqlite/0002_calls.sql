-- Calls that have begun and not ended, and calls that failed, of all objects, asleep or not. Those
-- that ended well stand in the journal alone.
--
-- Written at checkpoints, from the memory of objects and from the entries that move into history.
CREATE TABLE calls (
    mark     TEXT PRIMARY KEY,   -- the id; with the object, where that is a copy
    part     INTEGER NOT NULL,
    since    INTEGER NOT NULL,
    id       TEXT NOT NULL,
    oid      INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    key      TEXT NOT NULL,
    handler  TEXT NOT NULL,
    caller   TEXT NOT NULL,
    status   TEXT NOT NULL,      -- running, queued, failed, cancelled
    ended    INTEGER NOT NULL,   -- 0: it has not
    deadline INTEGER NOT NULL,   -- 0: it has none
    waiting  TEXT NOT NULL,      -- what it waited for when the object left memory
    failure  TEXT NOT NULL,
    unheard  INTEGER NOT NULL    -- 1: nobody was told how it ended
) WITHOUT ROWID;

CREATE INDEX call_since ON calls (since, id);
CREATE INDEX call_open ON calls (oid) WHERE ended = 0;
CREATE INDEX call_ended ON calls (ended) WHERE ended > 0;
CREATE INDEX call_late ON calls (deadline) WHERE ended = 0 AND deadline > 0;
