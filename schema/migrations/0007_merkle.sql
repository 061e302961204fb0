-- The Merkle tree over the log (RFC 6962): what is signed, and what auditors fetch (deploy/docs/log.md). All of it can be
-- computed again from log_entry; nobody is granted UPDATE or DELETE on any of it.

-- The names under which checkpoints are signed, in order. A log that was restored behind a checkpoint goes on under a
-- new origin, so that no origin ever has two roots for one size; `previous` is the last checkpoint known of the old one.
CREATE TABLE tollgate.log_origin (
    epoch int PRIMARY KEY CHECK (epoch > 0),
    origin text NOT NULL UNIQUE,
    first_size bigint NOT NULL CHECK (first_size >= 0), -- no checkpoint of this origin is smaller
    previous bytea,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Full tiles only (C2SP tlog-tiles, height 8): 256 hashes, and the hash over them, which is a hash of the level above.
-- The hashes of a partial tile stand in log_entry (level 0) and in `root` of the level below.
CREATE TABLE tollgate.log_tile (
    level smallint NOT NULL CHECK (level BETWEEN 0 AND 7),
    idx bigint NOT NULL CHECK (idx >= 0),
    hashes bytea NOT NULL CHECK (octet_length(hashes) = 8192),
    root bytea NOT NULL CHECK (octet_length(root) = 32),
    PRIMARY KEY (level, idx)
);

-- One checkpoint of an origin for a size: the key is what makes a second root impossible.
CREATE TABLE tollgate.log_checkpoint (
    epoch int NOT NULL,
    size bigint NOT NULL CHECK (size > 0),
    root bytea NOT NULL CHECK (octet_length(root) = 32),
    at timestamptz NOT NULL,
    note bytea NOT NULL, -- C2SP signed note with the log's own signature
    PRIMARY KEY (epoch, size)
);

CREATE TABLE tollgate.log_cosignature (
    epoch int NOT NULL,
    size bigint NOT NULL,
    witness text NOT NULL,
    line bytea NOT NULL, -- the signature line as the witness gave it
    PRIMARY KEY (epoch, size, witness)
);
CREATE INDEX log_cosignature_latest ON tollgate.log_cosignature (epoch, witness, size); -- how far a witness has come

GRANT SELECT, INSERT ON tollgate.log_origin, tollgate.log_tile, tollgate.log_checkpoint, tollgate.log_cosignature
    TO tollgate_log;
