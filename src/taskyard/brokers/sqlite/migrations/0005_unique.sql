-- Who holds which unique key (see brokers/unique.py). A message takes the key along as its mark.
CREATE TABLE taskyard_unique (
    grp INTEGER NOT NULL,
    shard TEXT NOT NULL,
    key TEXT NOT NULL,
    id TEXT NOT NULL,
    mode TEXT NOT NULL,
    until INTEGER NOT NULL DEFAULT 0,       -- of a window: when it ends
    first INTEGER NOT NULL DEFAULT 0,       -- of a debounced message: when the first was put
    sequence INTEGER NOT NULL DEFAULT 0,    -- of a debounced message, and
    due INTEGER NOT NULL DEFAULT 0,         -- when it enters its lane: where it is
    PRIMARY KEY (grp, shard, key)
) WITHOUT ROWID;
CREATE INDEX taskyard_unique_until ON taskyard_unique (until) WHERE until > 0;

ALTER TABLE taskyard_message ADD COLUMN mark TEXT NOT NULL DEFAULT '';
ALTER TABLE taskyard_due ADD COLUMN mark TEXT NOT NULL DEFAULT '';
ALTER TABLE taskyard_dead ADD COLUMN mark TEXT NOT NULL DEFAULT '';
-- Whether messages of the claim hold keys until they end.
ALTER TABLE taskyard_claim ADD COLUMN keyed INTEGER NOT NULL DEFAULT 0;
