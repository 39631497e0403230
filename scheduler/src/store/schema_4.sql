-- What is kept of the audit log away from it, to judge it by: the last record that was removed to bound it, and the newest
-- that is safely on disk. One row.
CREATE TABLE audit_kept (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    anchor_seq  INTEGER NOT NULL,
    anchor_hash BLOB NOT NULL,
    head_seq    INTEGER NOT NULL,
    head_hash   BLOB NOT NULL
) STRICT;
