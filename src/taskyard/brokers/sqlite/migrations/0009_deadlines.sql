-- Messages that must begin within a time of their own: so many microseconds after they entered their
-- lane; 0: what their task says.
ALTER TABLE taskyard_message ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;
ALTER TABLE taskyard_due ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;

-- Where batches wait to fill: none of its messages must begin before that; 0: none has such a time.
ALTER TABLE taskyard_lane ADD COLUMN deadline INTEGER NOT NULL DEFAULT 0;
