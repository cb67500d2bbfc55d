-- Who works, by the id of each run.
CREATE TABLE taskyard_worker (
    id TEXT PRIMARY KEY,
    seen INTEGER NOT NULL,
    listener TEXT NOT NULL,                 -- who is woken when it is told something
    report BLOB NOT NULL                    -- the broker does not read it
);
CREATE INDEX taskyard_worker_seen ON taskyard_worker (seen);

-- What workers are told, and have not confirmed; of equal messages the last.
CREATE TABLE taskyard_mail (
    worker TEXT NOT NULL,
    command TEXT NOT NULL,
    queue TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (worker, command, queue)
) WITHOUT ROWID;
