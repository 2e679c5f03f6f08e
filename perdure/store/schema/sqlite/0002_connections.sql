-- How many connections of an object are open, so that a start after a crash finds the objects whose
-- sockets were lost with the process, and wakes no others.
ALTER TABLE object ADD COLUMN connections INTEGER NOT NULL DEFAULT 0;

CREATE INDEX object_connected ON object (part, oid) WHERE connections > 0;
