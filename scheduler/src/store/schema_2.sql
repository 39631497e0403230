-- The node that a workspace was last on. An ephemeral one is bound to none once it has stopped, but its log and its
-- record stay there until it is deleted.
ALTER TABLE workspaces ADD COLUMN last_node TEXT NOT NULL DEFAULT '';
UPDATE workspaces SET last_node = node;

-- What a node is still to delete: it did not answer, or the workspace went elsewhere.
CREATE TABLE left_behind (
    node      TEXT NOT NULL,
    workspace TEXT NOT NULL,
    PRIMARY KEY (node, workspace)
) STRICT;
