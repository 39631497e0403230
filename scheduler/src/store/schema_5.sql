-- Runs whose node has not said yet that it goes by the egress policy that was set last.
CREATE TABLE egress_to_tell (
    workspace TEXT PRIMARY KEY REFERENCES workspaces (uid) ON DELETE CASCADE,
    run_id    TEXT NOT NULL
) STRICT;
