-- The life of a key after it was made: rotation, its end, where it was used;
-- and what people and the host did with keys.
--
-- Columns that are added have a default that is true of the rows that are there.

-- Of a use that was noted before this, only the time is known.
ALTER TABLE keys ADD COLUMN last_used_source TEXT;
ALTER TABLE keys ADD COLUMN last_used_endpoint TEXT;
ALTER TABLE keys ADD COLUMN imported INTEGER NOT NULL DEFAULT 0 CHECK (imported IN (0, 1));
ALTER TABLE keys ADD COLUMN replaces TEXT;
ALTER TABLE keys ADD COLUMN replaced_by TEXT;
-- The three are set together or not at all, but for the days, which only a
-- rotation that repeats has.
ALTER TABLE keys ADD COLUMN rotate_at INTEGER CHECK (rotate_at >= 0);
ALTER TABLE keys ADD COLUMN rotate_every_days INTEGER CHECK (rotate_every_days > 0);
ALTER TABLE keys ADD COLUMN rotate_overlap_minutes INTEGER CHECK (rotate_overlap_minutes >= 0);
ALTER TABLE keys ADD COLUMN end_noted INTEGER NOT NULL DEFAULT 0 CHECK (end_noted IN (0, 1));
ALTER TABLE keys ADD COLUMN revision INTEGER NOT NULL DEFAULT 1 CHECK (revision >= 0);

-- Partial, as each holds what is still to be done and not all keys: to ask what
-- is due costs nothing when nothing is.
CREATE INDEX keys_by_rotation ON keys (rotate_at) WHERE rotate_at IS NOT NULL;
CREATE INDEX keys_by_unnoted_end ON keys (ends_at) WHERE end_noted = 0 AND ends_at IS NOT NULL;
CREATE INDEX keys_imported ON keys (digest) WHERE imported = 1;

-- `text` and `seq` are what `seal` covers. What is looked for is computed from
-- `text`, so that it cannot say anything else.
CREATE TABLE audit_log (
    seq    INTEGER PRIMARY KEY CHECK (seq > 0),
    text   TEXT    NOT NULL CHECK (json_valid(text)),
    seal   BLOB    NOT NULL CHECK (length(seal) = 32),
    actor  TEXT    AS (text ->> '$.actor') VIRTUAL,
    target TEXT    AS (text ->> '$.target') VIRTUAL
) STRICT;

CREATE INDEX audit_log_by_actor ON audit_log (actor);
CREATE INDEX audit_log_by_target ON audit_log (target) WHERE target IS NOT NULL;

-- These stop a mistake of ours, or of a person with a database shell. Whoever
-- means it can drop them; that is what the seals are for.
CREATE TRIGGER audit_log_has_no_gaps BEFORE INSERT ON audit_log
WHEN NEW.seq IS NOT (SELECT ifnull(max(seq), 0) + 1 FROM audit_log)
BEGIN
    SELECT RAISE(ABORT, 'the audit log is only ever appended to');
END;

CREATE TRIGGER audit_log_is_not_changed BEFORE UPDATE ON audit_log
BEGIN
    SELECT RAISE(ABORT, 'the audit log is only ever appended to');
END;

CREATE TRIGGER audit_log_is_not_shortened BEFORE DELETE ON audit_log
BEGIN
    SELECT RAISE(ABORT, 'the audit log is only ever appended to');
END;

CREATE TABLE kept_replies (
    seq             INTEGER PRIMARY KEY,
    caller          TEXT    NOT NULL,
    idempotency_key TEXT    NOT NULL,
    request_digest  BLOB    NOT NULL CHECK (length(request_digest) = 32),
    kept_at         INTEGER NOT NULL CHECK (kept_at >= 0),
    status          INTEGER NOT NULL CHECK (status BETWEEN 100 AND 999),
    body            TEXT    NOT NULL,
    UNIQUE (caller, idempotency_key)
) STRICT;

CREATE INDEX kept_replies_by_time ON kept_replies (kept_at);

-- Only a copy has a row here, until somebody accepts that it is one.
CREATE TABLE backup_mark (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    made_at  INTEGER NOT NULL CHECK (made_at >= 0)
) STRICT;
