-- When the last turn of a segment was: what is older than somebody wants to keep is found by it.
-- 0: written before this was noted; such a segment is kept.
ALTER TABLE segment ADD COLUMN until INTEGER NOT NULL DEFAULT 0;

-- Which slice of a checkpoint has written the row: by it a copy that is brought up to date finds what
-- is new. The numbers of segments would not do, since SQLite gives those of removed rows again.
ALTER TABLE part ADD COLUMN stamp INTEGER NOT NULL DEFAULT 0;
ALTER TABLE object ADD COLUMN stamp INTEGER NOT NULL DEFAULT 0;

CREATE INDEX object_stamp ON object (stamp);

-- Objects that were erased, by number alone: a copy that is brought up to date erases them too.
CREATE TABLE erased (
    part INTEGER NOT NULL,
    n    INTEGER NOT NULL,       -- the object's number
    time INTEGER NOT NULL,
    PRIMARY KEY (part, n)
) WITHOUT ROWID;
