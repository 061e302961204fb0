-- Legal process reads records here, and nowhere else: role LEGAL reads sealed batches in the months that are set for the
-- transaction, as the peers' and the privacy role do, and writes what it finds into holds. It changes nothing of the store.
GRANT USAGE ON SCHEMA tollgate TO tollgate_legal;
GRANT SELECT (month, run_id, level, first_record_id, last_record_id, tag_bits) ON tollgate.run TO tollgate_legal;
GRANT SELECT (month, batch_id, run_id, pair_id, ingress_ocn, egress_ocn, rows, first_record_id, last_record_id, first_start,
    last_start, format, classes, timing, parties, routing, location, subscriber, device, source) ON tollgate.batch
    TO tollgate_legal;
GRANT SELECT ON tollgate.batch_leg, tollgate.tag_segment, tollgate.store_head, tollgate.data_key,
    tollgate.data_key_destroyed TO tollgate_legal;
-- Each hold has a data key of its own, made by whoever writes the hold.
GRANT INSERT ON tollgate.data_key TO tollgate_legal;
-- What a certificate says of the inputs: name (sealed), SHA-256, size.
GRANT SELECT (ingest_id, at, profile, source_digest, source_bytes, name_key_month, name_sealed, lines) ON tollgate.ingest
    TO tollgate_legal;

-- A call whose trunk is in no map is disclosed to no peer; a warrant reaches it like any other record.
CREATE POLICY legal ON tollgate.batch FOR SELECT TO tollgate_legal USING (
    month >= tollgate.first_month() AND month <= tollgate.last_month());
CREATE POLICY legal ON tollgate.batch_leg FOR SELECT TO tollgate_legal USING (
    month >= tollgate.first_month() AND month <= tollgate.last_month());
CREATE POLICY legal ON tollgate.tag_segment FOR SELECT TO tollgate_legal USING (
    month >= tollgate.first_month() AND month <= tollgate.last_month());
-- So the privacy officer counts it too: until now nobody could have been shown it.
ALTER POLICY privacy ON tollgate.batch USING (month >= tollgate.first_month() AND month <= tollgate.last_month());

-- An extraction and what it held: none without a case. The order (whose targets, whose fields) is sealed under the hold's
-- own key, a moment after the extraction has begun, so that a gateway that dies leaves all that is needed to go on. Its
-- digest stands in clear, so that an order that differs is not taken for it.
CREATE TABLE tollgate.held (
    hold_id text PRIMARY KEY CHECK (hold_id ~ '^H-[A-Z2-7]{10}$'),
    case_id text NOT NULL REFERENCES tollgate.legal_case,
    access_id uuid NOT NULL UNIQUE,
    key_month int NOT NULL,
    discloses boolean NOT NULL,
    order_sealed bytea,
    order_digest bytea NOT NULL CHECK (octet_length(order_digest) = 32),
    as_of bigint NOT NULL,
    staged bigint NOT NULL CHECK (staged >= 0),
    start_us bigint NOT NULL,
    end_us bigint NOT NULL CHECK (end_us > start_us),
    started_at timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'complete', 'cancelled', 'failed')),
    why text NOT NULL DEFAULT '' CHECK (why ~ '^[a-z_]{0,40}$'),
    -- Where it stands, moved with each piece: rows, pieces, and the place of the last record.
    rows bigint NOT NULL DEFAULT 0,
    pieces int NOT NULL DEFAULT 0,
    logged_rows bigint NOT NULL DEFAULT 0,
    logged_pieces int NOT NULL DEFAULT 0,
    at_us bigint NOT NULL,
    gone text NOT NULL DEFAULT '[]',
    sha256 bytea CHECK (octet_length(sha256) = 32),
    ended_at timestamptz,
    log_index bigint,
    CHECK ((state = 'running') = (ended_at IS NULL)),
    CHECK ((state = 'complete') = (sha256 IS NOT NULL))
);
CREATE INDEX held_case ON tollgate.held (case_id);
CREATE INDEX held_running ON tollgate.held (hold_id) WHERE state = 'running';
GRANT SELECT ON tollgate.held TO tollgate_legal;
GRANT INSERT (hold_id, case_id, access_id, key_month, discloses, order_digest, as_of, staged, start_us, end_us, at_us)
    ON tollgate.held TO tollgate_legal;
-- No order, scope or case of an extraction is ever changed, and none is deleted: its key is what is destroyed.
GRANT UPDATE (order_sealed, state, why, rows, pieces, logged_rows, logged_pieces, at_us, gone, sha256, ended_at, log_index)
    ON tollgate.held TO tollgate_legal;
-- The register knows how far an extraction is and what came of it; the order's targets it has itself.
GRANT SELECT (hold_id, case_id, access_id, key_month, discloses, as_of, staged, start_us, end_us, started_at, state, why, rows,
    pieces, at_us, gone, sha256, ended_at, log_index) ON tollgate.held TO tollgate_cases;

-- The records of a hold in order, at most 65,536 in a piece, sealed under the hold's own key. `sha256` is of the plaintext.
CREATE TABLE tollgate.held_piece (
    hold_id text NOT NULL REFERENCES tollgate.held,
    piece int NOT NULL CHECK (piece >= 0),
    rows int NOT NULL CHECK (rows BETWEEN 1 AND 65536),
    first_start bigint NOT NULL,
    last_start bigint NOT NULL CHECK (last_start >= first_start),
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    sealed bytea NOT NULL,
    PRIMARY KEY (hold_id, piece)
);
ALTER TABLE tollgate.held_piece ALTER COLUMN sealed SET STORAGE EXTERNAL;
GRANT SELECT, INSERT ON tollgate.held_piece TO tollgate_legal;

-- The inputs that a hold's records were read from, as one sealed list: it outlives the rows it was made from.
CREATE TABLE tollgate.held_source (
    hold_id text PRIMARY KEY REFERENCES tollgate.held,
    sealed bytea NOT NULL
);
ALTER TABLE tollgate.held_source ALTER COLUMN sealed SET STORAGE EXTERNAL;
GRANT SELECT, INSERT ON tollgate.held_source TO tollgate_legal;

-- The hold that this transaction works on, set by the gateway. Unset: no row.
CREATE FUNCTION tollgate.hold_in_hand() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('tollgate.hold', true), '');
ALTER TABLE tollgate.held_piece ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE tollgate.held_source ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY legal ON tollgate.held_piece TO tollgate_legal USING (hold_id = tollgate.hold_in_hand())
    WITH CHECK (hold_id = tollgate.hold_in_hand());
CREATE POLICY legal ON tollgate.held_source TO tollgate_legal USING (hold_id = tollgate.hold_in_hand())
    WITH CHECK (hold_id = tollgate.hold_in_hand());

-- What has ended stays as it ended, and what is held is only ever added to while its extraction runs.
CREATE FUNCTION tollgate.held_moves() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state <> 'running' THEN
        RAISE EXCEPTION 'the extraction of hold % has ended', OLD.hold_id USING ERRCODE = 'check_violation';
    END IF;
    IF OLD.order_sealed IS NOT NULL AND NEW.order_sealed IS DISTINCT FROM OLD.order_sealed THEN
        RAISE EXCEPTION 'the order of hold % stands', OLD.hold_id USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.rows < OLD.rows OR NEW.pieces < OLD.pieces OR NEW.at_us < OLD.at_us THEN
        RAISE EXCEPTION 'the extraction of hold % would go back', OLD.hold_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER held_moves BEFORE UPDATE ON tollgate.held FOR EACH ROW EXECUTE FUNCTION tollgate.held_moves();
CREATE FUNCTION tollgate.held_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tollgate.held h WHERE h.hold_id = NEW.hold_id AND h.state = 'running') THEN
        RAISE EXCEPTION 'the extraction of hold % has ended', NEW.hold_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER held_grows BEFORE INSERT ON tollgate.held_piece FOR EACH ROW EXECUTE FUNCTION tollgate.held_grows();
CREATE TRIGGER held_grows BEFORE INSERT ON tollgate.held_source FOR EACH ROW EXECUTE FUNCTION tollgate.held_grows();
