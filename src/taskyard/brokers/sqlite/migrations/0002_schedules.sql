-- What puts messages at certain times; the broker reads only when the next is due.
CREATE TABLE taskyard_schedule (
    name TEXT PRIMARY KEY,
    rule BLOB NOT NULL,
    pending INTEGER NOT NULL,               -- 0: there is no next instant
    last INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX taskyard_schedule_due ON taskyard_schedule (pending)
WHERE pending > 0 AND paused = 0;
