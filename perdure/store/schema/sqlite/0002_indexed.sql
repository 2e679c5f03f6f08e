-- Values of Indexed attributes, so that objects are found by them. The value is in bytes whose order
-- is that of the values (indexed.py).
CREATE TABLE indexed (
    oid   INTEGER NOT NULL,
    name  TEXT NOT NULL,
    kind  TEXT NOT NULL,
    value BLOB NOT NULL,
    key   TEXT NOT NULL,
    PRIMARY KEY (oid, name)
) WITHOUT ROWID;

CREATE INDEX indexed_value ON indexed (kind, name, value, key);

-- For which attributes of a class the table above is complete.
CREATE TABLE indexed_kind (
    kind  TEXT PRIMARY KEY,
    names TEXT NOT NULL
) WITHOUT ROWID;
