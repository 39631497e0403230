-- What is known of a volume beside its spec. `node` holds its data; empty until a workspace that mounts it is placed.
-- `ready_at` is 0 until it has been mounted.
CREATE TABLE volumes (
    uid      TEXT PRIMARY KEY REFERENCES resources (uid) ON DELETE CASCADE,
    node     TEXT NOT NULL,
    ready_at INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What the current or the last run of a workspace mounts; it counts while that run is under way.
CREATE TABLE mounts (
    workspace TEXT NOT NULL REFERENCES workspaces (uid) ON DELETE CASCADE,
    volume    TEXT NOT NULL REFERENCES volumes (uid) ON DELETE CASCADE,
    PRIMARY KEY (workspace, volume)
) STRICT;
CREATE INDEX mounts_by_volume ON mounts (volume);

-- Deleted volumes whose data is still on a node.
CREATE TABLE volumes_left_behind (
    node   TEXT NOT NULL,
    volume TEXT NOT NULL,
    PRIMARY KEY (node, volume)
) STRICT;
