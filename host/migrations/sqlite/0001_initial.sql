-- Accounts and their keys, the simulated API's objects and answers, and the
-- request log.
--
-- Every table is STRICT: a value of the wrong type is refused when it is
-- written, not discovered when it is read. Times are whole seconds since 1970,
-- too coarse to order rows by, so what is listed has `seq`, the order in which
-- it was made. No row but the oldest of a bounded table and deleted objects
-- ever go away.

CREATE TABLE organizations (
    seq        INTEGER PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL CHECK (created_at >= 0)
) STRICT;

CREATE TABLE accounts (
    seq          INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    name         TEXT    NOT NULL,
    organization TEXT    REFERENCES organizations (id),
    platform     TEXT    REFERENCES accounts (id),
    created_at   INTEGER NOT NULL CHECK (created_at >= 0)
) STRICT;

-- `account` names an account or an organization, so that it cannot be a foreign
-- key. `ipv4_networks` and permissions are space-separated; `attributes` is a
-- JSON list of pairs.
CREATE TABLE keys (
    seq                 INTEGER PRIMARY KEY,
    id                  TEXT    NOT NULL UNIQUE,
    account             TEXT    NOT NULL,
    mode                TEXT    NOT NULL CHECK (mode IN ('test', 'live')),
    kind                TEXT    NOT NULL,
    origin              TEXT    NOT NULL,
    prefix              TEXT    NOT NULL,
    masked              TEXT    NOT NULL,
    digest              BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
    sealed_secret       BLOB,
    name                TEXT    NOT NULL,
    note                TEXT    NOT NULL,
    permissions         TEXT    NOT NULL,
    connect_permissions TEXT    NOT NULL,
    ipv4_networks       TEXT    NOT NULL,
    created_at          INTEGER NOT NULL CHECK (created_at >= 0),
    ends_at             INTEGER CHECK (ends_at >= 0),
    restored_at         INTEGER CHECK (restored_at >= 0),
    money_moved_at      INTEGER CHECK (money_moved_at >= 0),
    last_used_at        INTEGER CHECK (last_used_at >= 0),
    attributes          TEXT    NOT NULL CHECK (json_valid(attributes))
) STRICT;

CREATE INDEX keys_by_account ON keys (account);

CREATE TABLE objects (
    seq        INTEGER PRIMARY KEY,
    account    TEXT    NOT NULL,
    mode       TEXT    NOT NULL CHECK (mode IN ('test', 'live')),
    collection TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    created_at INTEGER NOT NULL CHECK (created_at >= 0),
    body       TEXT    NOT NULL CHECK (json_valid(body)),
    UNIQUE (account, mode, id)
) STRICT;

-- An index ends with `seq` in any case: this one holds a list in its order.
CREATE INDEX objects_by_collection ON objects (account, mode, collection);

CREATE TABLE answers (
    seq             INTEGER PRIMARY KEY,
    account         TEXT    NOT NULL,
    mode            TEXT    NOT NULL CHECK (mode IN ('test', 'live')),
    idempotency_key TEXT    NOT NULL,
    kept_at         INTEGER NOT NULL CHECK (kept_at >= 0),
    request_digest  BLOB    NOT NULL CHECK (length(request_digest) = 32),
    status          INTEGER NOT NULL CHECK (status BETWEEN 100 AND 999),
    body            BLOB    NOT NULL,
    UNIQUE (account, mode, idempotency_key)
) STRICT;

-- Written far more often than read. It has no checks, and one index.
CREATE TABLE request_log (
    seq         INTEGER PRIMARY KEY,
    at_ms       INTEGER NOT NULL,
    request_id  TEXT    NOT NULL,
    key_id      TEXT,
    account     TEXT,
    method      TEXT    NOT NULL,
    path        TEXT    NOT NULL,
    status      INTEGER NOT NULL,
    code        TEXT,
    source      TEXT    NOT NULL,
    policy      BLOB,
    decision_us INTEGER NOT NULL
) STRICT;

-- Begins with the block of 16384 rows, and not with the key, so that new entries
-- go to a few pages that are at hand: with 100 000 keys in use, a row cost 35 µs
-- with an index by key alone, and 4 µs with this one. A look-up asks each block
-- instead, of which there are about sixty: 2 ms.
CREATE INDEX request_log_by_key ON request_log (seq >> 14, key_id) WHERE key_id IS NOT NULL;
