-- Policies that were pushed, and which of them is in force.

-- A policy is what its digest says: nothing here but `retired_at` ever changes.
CREATE TABLE policies (
    digest     BLOB    NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    seq        INTEGER NOT NULL UNIQUE CHECK (seq > 0),
    name       TEXT    NOT NULL,
    version    TEXT    NOT NULL,
    revision   INTEGER NOT NULL CHECK (revision >= 0),
    interfaces TEXT    NOT NULL,
    pushed_at  INTEGER NOT NULL CHECK (pushed_at >= 0),
    pushed_by  TEXT    NOT NULL,
    signature  BLOB    CHECK (length(signature) = 64),
    retired_at INTEGER CHECK (retired_at >= 0),
    bytes      BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

-- What was put in force, one row for each time; the last one is. No digest: the
-- standard policy, which every host has in itself.
CREATE TABLE activations (
    seq      INTEGER PRIMARY KEY CHECK (seq > 0),
    digest   BLOB    REFERENCES policies (digest),
    -- Those stacked on it, in their order: a JSON list of digests in hexadecimal.
    overlays TEXT    NOT NULL CHECK (json_valid(overlays)),
    at       INTEGER NOT NULL CHECK (at >= 0),
    actor    TEXT    NOT NULL,
    reason   TEXT    NOT NULL
) STRICT;
