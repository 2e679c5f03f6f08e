-- Open promises, of all objects, asleep or not: the inbox of what somebody has to decide.
--
-- Written at checkpoints alone, from the entries that move into history; what happened since is
-- found in the log's tail. A row goes when its promise is settled.
CREATE TABLE promise (
    token TEXT PRIMARY KEY,
    part  INTEGER NOT NULL,
    oid   INTEGER NOT NULL,
    kind  TEXT NOT NULL,
    key   TEXT NOT NULL,
    type  TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL       -- 0: it waits for ever
) WITHOUT ROWID;

CREATE INDEX promise_since ON promise (since, token);
CREATE INDEX promise_object ON promise (kind, key, since, token);
