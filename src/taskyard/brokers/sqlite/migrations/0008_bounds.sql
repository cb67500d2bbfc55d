-- How much queues hold, as far as anything was said of that; changes raise the version of the groups.
CREATE TABLE taskyard_bound (
    queue TEXT PRIMARY KEY,
    bounds BLOB NOT NULL
) WITHOUT ROWID;
