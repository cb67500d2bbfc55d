CREATE TABLE taskyard_meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    schema INTEGER NOT NULL
);

-- What owns lanes: a task of a queue, or the tasks of a common order.
CREATE TABLE taskyard_group (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    name TEXT NOT NULL,
    declared INTEGER NOT NULL DEFAULT 0,
    policy BLOB NOT NULL,
    UNIQUE (queue, name)
);

-- Everything that nearly every transaction changes, on one page: the counters of groups, and under
-- group 0 the numbers of the broker: the last sequence, turn and lane id that were given out (they
-- only ever rise), and a version of the groups (others reload them when it rises).
CREATE TABLE taskyard_counter (
    grp INTEGER NOT NULL,
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (grp, name)
) WITHOUT ROWID;

CREATE TABLE taskyard_lane (
    id INTEGER PRIMARY KEY,
    grp INTEGER NOT NULL,
    shard TEXT NOT NULL,
    waiting INTEGER NOT NULL,               -- at least that many, where batches do not wait to fill
    bytes INTEGER NOT NULL,
    oldest INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    mixed INTEGER NOT NULL,
    held INTEGER NOT NULL,
    blocked INTEGER NOT NULL,
    parked INTEGER NOT NULL,
    place INTEGER NOT NULL,                 -- 0 nowhere, 1 ready, 2 later
    turn INTEGER NOT NULL,
    at INTEGER NOT NULL
);
CREATE UNIQUE INDEX taskyard_lane_shard ON taskyard_lane (grp, shard);
CREATE INDEX taskyard_lane_ready ON taskyard_lane (grp, priority, turn) WHERE place = 1;
CREATE INDEX taskyard_lane_later ON taskyard_lane (at) WHERE place = 2;
CREATE INDEX taskyard_lane_filling ON taskyard_lane (grp, at) WHERE place = 2;

-- Messages in lanes, clustered in the order in which they are claimed.
CREATE TABLE taskyard_message (
    lane INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    body BLOB NOT NULL,
    since INTEGER NOT NULL DEFAULT 0,       -- 0: the same as sequence
    deliveries INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    cap INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (lane, priority, sequence)
) WITHOUT ROWID;

-- Messages that enter their lane when they are due.
CREATE TABLE taskyard_due (
    at INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    grp INTEGER NOT NULL,
    shard TEXT NOT NULL,
    priority INTEGER NOT NULL,
    body BLOB NOT NULL,
    since INTEGER NOT NULL DEFAULT 0,
    deliveries INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    cap INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (at, sequence)
) WITHOUT ROWID;

-- A claim holds its messages: they are in no lane while it is open.
CREATE TABLE taskyard_claim (
    token INTEGER PRIMARY KEY,
    grp INTEGER NOT NULL,
    owner TEXT NOT NULL,
    deadline INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    lanes TEXT,                             -- ids of the lanes it holds, where their number is limited
    parts BLOB NOT NULL
);
CREATE INDEX taskyard_claim_deadline ON taskyard_claim (deadline);

CREATE TABLE taskyard_record (
    id TEXT PRIMARY KEY,
    grp INTEGER NOT NULL,
    state TEXT NOT NULL,
    due INTEGER NOT NULL,
    ttl INTEGER NOT NULL,
    expires INTEGER NOT NULL DEFAULT 0,     -- 0: not finished yet
    result BLOB,
    failure BLOB
) WITHOUT ROWID;
CREATE INDEX taskyard_record_expires ON taskyard_record (expires) WHERE expires > 0;

CREATE TABLE taskyard_dead (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    grp INTEGER NOT NULL,
    task TEXT NOT NULL,
    shard TEXT NOT NULL,
    priority INTEGER NOT NULL,
    id TEXT NOT NULL,
    failure BLOB NOT NULL,
    deliveries INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    since INTEGER NOT NULL,
    at INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX taskyard_dead_grp ON taskyard_dead (grp, number);
CREATE INDEX taskyard_dead_at ON taskyard_dead (at);

-- Who sleeps, and for what: a group ("g:7") or a record ("r:id").
CREATE TABLE taskyard_listener (
    topic TEXT NOT NULL,
    name TEXT NOT NULL,
    until INTEGER NOT NULL,                 -- when it wakes by itself; 0: not for this topic
    since INTEGER NOT NULL,                 -- when it fell asleep: the first is woken first
    PRIMARY KEY (topic, name)
) WITHOUT ROWID;
CREATE INDEX taskyard_listener_name ON taskyard_listener (name);

INSERT INTO taskyard_meta (id, schema) VALUES (1, 1);
INSERT INTO taskyard_counter (grp, name, value)
VALUES (0, 'sequence', 0), (0, 'turn', 0), (0, 'lane', 0), (0, 'policies', 0);
