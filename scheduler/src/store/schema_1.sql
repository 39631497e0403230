-- Spaces, Templates, Workspaces and Secrets alike. `space` is empty for spaces.
CREATE TABLE resources (
    uid          TEXT PRIMARY KEY,
    kind         INTEGER NOT NULL,
    space        TEXT NOT NULL,
    name         TEXT NOT NULL,
    display_name TEXT NOT NULL,
    labels       TEXT NOT NULL,
    spec         TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    UNIQUE (kind, space, name)
) STRICT;

CREATE TABLE secrets (
    uid  TEXT PRIMARY KEY REFERENCES resources (uid) ON DELETE CASCADE,
    data BLOB NOT NULL
) STRICT;

-- `state` and `node` repeat what `status` says, for queries. `run_spec` is the merged spec of the current run, to
-- send a start again; `accepted` says that its node has it.
CREATE TABLE workspaces (
    uid      TEXT PRIMARY KEY REFERENCES resources (uid) ON DELETE CASCADE,
    template TEXT NOT NULL,
    state    INTEGER NOT NULL,
    node     TEXT NOT NULL,
    status   BLOB NOT NULL,
    run_spec TEXT NOT NULL DEFAULT '',
    accepted INTEGER NOT NULL DEFAULT 1,
    -- The newest journal entry of this workspace.
    revision INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX workspaces_by_state ON workspaces (state, node);

-- Runs before the current one.
CREATE TABLE runs (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace TEXT NOT NULL REFERENCES workspaces (uid) ON DELETE CASCADE,
    data      BLOB NOT NULL
) STRICT;
CREATE INDEX runs_by_workspace ON runs (workspace, seq);

CREATE TABLE start_keys (
    workspace  TEXT NOT NULL REFERENCES workspaces (uid) ON DELETE CASCADE,
    key        TEXT NOT NULL,
    run_id     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (workspace, key)
) STRICT;

-- The merged stream. Revisions have no holes; the oldest rows are dropped.
CREATE TABLE journal (
    revision  INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace TEXT NOT NULL,
    space     TEXT NOT NULL,
    name      TEXT NOT NULL,
    phase     BLOB,
    status    BLOB NOT NULL,
    deleted   INTEGER NOT NULL DEFAULT 0
) STRICT;

-- How far each node's stream has been applied.
CREATE TABLE nodes (
    name      TEXT PRIMARY KEY,
    cursor    INTEGER NOT NULL,
    last_seen INTEGER NOT NULL
) STRICT;
