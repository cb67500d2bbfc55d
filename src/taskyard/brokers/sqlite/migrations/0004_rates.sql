-- Rate limits. A tat is the microsecond at which a bucket of tokens is full again (see rate.py).
ALTER TABLE taskyard_lane ADD COLUMN tat INTEGER NOT NULL DEFAULT 0;

-- Lanes of place 3: fading, nothing is left of them but their tat.
CREATE INDEX taskyard_lane_fading ON taskyard_lane (at) WHERE place = 3;

-- When it was claimed, microseconds, where a rate was limited then; else 0.
ALTER TABLE taskyard_claim ADD COLUMN since INTEGER NOT NULL DEFAULT 0;

-- The limits of queues; changes raise the version of the groups.
CREATE TABLE taskyard_queue_rate (
    queue TEXT PRIMARY KEY,
    rate BLOB NOT NULL
) WITHOUT ROWID;

-- The buckets of groups ("g:7") and queues ("q:name").
CREATE TABLE taskyard_bucket (
    name TEXT PRIMARY KEY,
    tat INTEGER NOT NULL
) WITHOUT ROWID;
