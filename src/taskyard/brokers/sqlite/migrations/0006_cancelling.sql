-- Where the message of a record is, so that it can be taken out; 0: not known (an older record).
ALTER TABLE taskyard_record ADD COLUMN shard TEXT NOT NULL DEFAULT '';
ALTER TABLE taskyard_record ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE taskyard_record ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;
-- What its handler told last, and when.
ALTER TABLE taskyard_record ADD COLUMN progress BLOB;
ALTER TABLE taskyard_record ADD COLUMN told_at INTEGER NOT NULL DEFAULT 0;
-- Sequences of messages that were cancelled since they were claimed.
ALTER TABLE taskyard_claim ADD COLUMN told TEXT;

-- Cancelled ids without records: they mean the messages that were put before.
CREATE TABLE taskyard_note (
    id TEXT PRIMARY KEY,
    note INTEGER NOT NULL                   -- a sequence
) WITHOUT ROWID;
CREATE INDEX taskyard_note_age ON taskyard_note (note);

-- The last note: there is nothing to look for once it is too old.
INSERT INTO taskyard_counter (grp, name, value) VALUES (0, 'note', 0);
