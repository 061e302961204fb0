-- Wrapped data keys. What is wrapped here opens only with the key provider's period key (keys/), which PostgreSQL
-- never sees: the whole table may be published and tells only which classes and months have records.
-- A row per class and month: a small table, never distributed by shard (with Citus: a reference table).
CREATE TABLE tollgate.data_key (
    key_class  text        NOT NULL CHECK (key_class ~ '^[a-z][a-z0-9_]{0,47}$'),
    month      int         NOT NULL CHECK (month BETWEEN 190001 AND 999912 AND month % 100 BETWEEN 1 AND 12),
    key_id     bigint      NOT NULL CHECK (key_id > 0),
    alg        text        NOT NULL,
    wrapped    bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key_class, month)
);

-- Periods whose key was destroyed. The keyring says it too; this says it even where an old backup of the keyring was
-- put back: the rows are no longer opened, and `tollgate keys verify` reports the key that came back.
CREATE TABLE tollgate.data_key_destroyed (
    key_class    text        NOT NULL,
    month        int         NOT NULL,
    destroyed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key_class, month)
);

-- Insert-only: nobody may change or take away a wrapped key, for with it go that month's records.
GRANT SELECT, INSERT ON tollgate.data_key TO tollgate_log_writer, tollgate_ingest;
GRANT SELECT ON tollgate.data_key TO tollgate_billing;
GRANT SELECT ON tollgate.data_key_destroyed TO tollgate_log_writer, tollgate_ingest, tollgate_billing;
GRANT INSERT ON tollgate.data_key_destroyed TO tollgate_operator;
