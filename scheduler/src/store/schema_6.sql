-- How far each node's records of egress are in the audit log.
CREATE TABLE egress_records (
    node   TEXT PRIMARY KEY,
    -- Of the broker that told them.
    epoch  INTEGER NOT NULL,
    number INTEGER NOT NULL,
    -- How much had happened up to there.
    happened INTEGER NOT NULL
) STRICT;
