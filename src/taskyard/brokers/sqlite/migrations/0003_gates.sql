-- The queues that do not let everything through; changes raise the version of the groups.
CREATE TABLE taskyard_gate (
    queue TEXT PRIMARY KEY,
    gate TEXT NOT NULL
) WITHOUT ROWID;
