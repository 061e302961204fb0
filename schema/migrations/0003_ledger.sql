-- The access log (deploy/docs/log.md). Entries are never changed and never removed; nobody is granted UPDATE or DELETE
-- on them. Openings are sealed apart and are what retention erases; the entry's header and leaf stay for ever.
--
-- Unpartitioned: entries are append-only in key order (inserts stay at the right edge of each index, nothing is ever
-- vacuumed away), and openings are one row for each group of entries, erased by (part, month) along their key.

-- One row: how long the log is. Whoever appends holds it FOR UPDATE until COMMIT, so indexes are contiguous and two
-- gateways cannot fork the log. `at` is the last entry's time: time never runs backwards with the index.
CREATE TABLE tollgate.log_head (
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    size bigint NOT NULL CHECK (size >= 0),
    at timestamptz NOT NULL
) WITH (fillfactor = 10);
INSERT INTO tollgate.log_head (size, at) VALUES (0, '2000-01-01T00:00:00Z');

CREATE TABLE tollgate.log_entry (
    idx bigint PRIMARY KEY CHECK (idx >= 0),
    entry_id uuid NOT NULL,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    access_id uuid,
    batch_id uuid NOT NULL,      -- where its sealed openings stand: three rows of log_opening
    batch_pos smallint NOT NULL, -- its chunk there
    header bytea NOT NULL,       -- canonical JSON, commits to the openings and the tags
    leaf_hash bytea NOT NULL CHECK (octet_length(leaf_hash) = 32),
    tags bytea NOT NULL CHECK (octet_length(tags) % 9 = 0) -- domain byte and 8 bytes of keyed tag, each
);
-- Not unique (a distributed table could not hold it): the head lock makes the look-up before an insert decisive.
CREATE INDEX log_entry_entry_id ON tollgate.log_entry (entry_id);
CREATE INDEX log_entry_access ON tollgate.log_entry (access_id, idx) WHERE access_id IS NOT NULL;

-- The sealed openings of a group of entries: one chunk for each, under the month's key of class log_<part>.
CREATE TABLE tollgate.log_opening (
    part text NOT NULL CHECK (part IN ('actor', 'request', 'outcome')),
    month int NOT NULL,
    batch_id uuid NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (part, month, batch_id)
);
ALTER TABLE tollgate.log_opening ALTER COLUMN sealed SET STORAGE EXTERNAL;

-- Where a tag stands. It only repeats log_entry.tags (which the header commits to) in an order that can be searched.
CREATE TABLE tollgate.log_tag (
    tag bigint NOT NULL,
    idx bigint NOT NULL,
    PRIMARY KEY (tag, idx)
);

-- Writers (the gateway, ingest, the operator's commands) insert and move the head, and see nothing of what stands there.
GRANT SELECT, UPDATE ON tollgate.log_head TO tollgate_log_writer;
GRANT INSERT ON tollgate.log_entry, tollgate.log_opening, tollgate.log_tag TO tollgate_log_writer;
GRANT SELECT ON tollgate.log_entry, tollgate.log_opening, tollgate.log_tag TO tollgate_log;
GRANT SELECT ON tollgate.log_head TO tollgate_monitor;
GRANT USAGE ON SCHEMA tollgate TO tollgate_log_writer, tollgate_log, tollgate_monitor;
