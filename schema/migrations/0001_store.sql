-- The record store: sealed runs. Everything with ciphertext has forced row-level security, and every policy compares
-- integers only (int4eq, int4ge, = ANY are leakproof, so that an index still serves the query under the policy).
-- Months are integers yyyymm. OCNs are integers (schema/fields.py: ocn_code); -1 none, -2 unmapped.

-- Who may connect to this schema at all.
GRANT USAGE ON SCHEMA tollgate TO tollgate_billing, tollgate_ingest, tollgate_log, tollgate_oauth, tollgate_operator,
    tollgate_monitor;

-- One row: the next record id. The row lock is the ingest commit lock, so that id order is commit order.
CREATE TABLE tollgate.store_head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    next_record_id bigint NOT NULL DEFAULT 1
);
INSERT INTO tollgate.store_head DEFAULT VALUES;
GRANT SELECT, UPDATE ON tollgate.store_head TO tollgate_ingest;
GRANT SELECT ON tollgate.store_head TO tollgate_billing, tollgate_monitor;

CREATE SEQUENCE tollgate.store_id;
GRANT USAGE ON SEQUENCE tollgate.store_id TO tollgate_ingest;

-- A file that was ingested. Its name may say more than it should: it is sealed.
CREATE TABLE tollgate.ingest (
    ingest_id bigint PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    profile text NOT NULL,
    profile_digest bytea NOT NULL,
    source_digest bytea NOT NULL UNIQUE,
    source_bytes bigint NOT NULL,
    name_key_month int NOT NULL,
    name_sealed bytea NOT NULL,
    lines bigint NOT NULL,
    stored bigint NOT NULL,
    duplicates bigint NOT NULL,
    conflicts bigint NOT NULL,
    rejected bigint NOT NULL,
    unmapped bigint NOT NULL,
    entry_id uuid NOT NULL,
    CHECK (lines = stored + duplicates + conflicts + rejected)
);
GRANT SELECT, INSERT ON tollgate.ingest TO tollgate_ingest;
GRANT SELECT (ingest_id, at, profile, lines, stored, duplicates, conflicts, rejected, unmapped) ON tollgate.ingest
    TO tollgate_monitor;

-- Lines that were refused, in pieces: numbers and reasons in clear, the lines themselves sealed.
CREATE TABLE tollgate.ingest_reject (
    ingest_id bigint NOT NULL,
    piece int NOT NULL,
    month int NOT NULL,
    line_numbers bigint[] NOT NULL,
    reasons text[] NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (ingest_id, piece)
);
GRANT SELECT, INSERT ON tollgate.ingest_reject TO tollgate_ingest;

-- What one ingest or one roll wrote for one month.
CREATE TABLE tollgate.run (
    month int NOT NULL,
    run_id bigint NOT NULL,
    level smallint NOT NULL,
    ingest_id bigint,
    rows bigint NOT NULL,
    first_record_id bigint NOT NULL,
    last_record_id bigint NOT NULL,
    tag_bits smallint NOT NULL,
    manifest bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (month, run_id)
);
CREATE INDEX run_staged ON tollgate.run (first_record_id) WHERE level = 0;
-- DELETE: rolling replaces runs; the log entry of the roll names what it destroyed.
GRANT SELECT, INSERT, DELETE ON tollgate.run TO tollgate_ingest;
GRANT SELECT (month, run_id, level, first_record_id, last_record_id, tag_bits) ON tollgate.run TO tollgate_billing;
GRANT SELECT (month, run_id, level, rows) ON tollgate.run TO tollgate_monitor;

-- One carrier pair; its id orders answers and says nothing by itself. Peers' role cannot read it.
CREATE TABLE tollgate.pair (
    pair_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ingress_ocn int NOT NULL,
    egress_ocn int NOT NULL,
    UNIQUE (ingress_ocn, egress_ocn)
);
GRANT SELECT, INSERT ON tollgate.pair TO tollgate_ingest;

-- Level 0: one row per ingested chunk, all pairs together.
CREATE TABLE tollgate.staging (
    month int NOT NULL,
    run_id bigint NOT NULL,
    piece int NOT NULL,
    rows int NOT NULL,
    first_start bigint NOT NULL,
    last_start bigint NOT NULL,
    format smallint NOT NULL,
    classes smallint NOT NULL,
    timing bytea,
    parties bytea,
    routing bytea,
    ingress_leg bytea,
    egress_leg bytea,
    location bytea,
    subscriber bytea,
    device bytea,
    source bytea,
    PRIMARY KEY (month, run_id, piece)
) PARTITION BY LIST (month);

-- A batch: one pair, one month, at most 8,192 rows; one ciphertext per disclosure class that both sides may share.
CREATE TABLE tollgate.batch (
    month int NOT NULL,
    batch_id bigint NOT NULL,
    run_id bigint NOT NULL,
    pair_id int NOT NULL,
    ingress_ocn int NOT NULL,
    egress_ocn int NOT NULL,
    rows int NOT NULL,
    first_record_id bigint NOT NULL,
    last_record_id bigint NOT NULL,
    first_start bigint NOT NULL,
    last_start bigint NOT NULL,
    format smallint NOT NULL,
    classes smallint NOT NULL,
    timing bytea,
    parties bytea,
    routing bytea,
    location bytea,
    subscriber bytea,
    device bytea,
    source bytea,
    PRIMARY KEY (month, batch_id)
) PARTITION BY LIST (month);
CREATE INDEX batch_run ON tollgate.batch (month, run_id);

-- The sides of a batch, apart, so that row-level security can open one and not the other.
CREATE TABLE tollgate.batch_leg (
    month int NOT NULL,
    batch_id bigint NOT NULL,
    side smallint NOT NULL CHECK (side IN (1, 2)),
    ocn int NOT NULL,
    pair_id int NOT NULL,
    last_record_id bigint NOT NULL,
    mapped boolean NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (month, batch_id, side)
) PARTITION BY LIST (month);
CREATE INDEX batch_leg_order ON tollgate.batch_leg (month, ocn, side, pair_id, last_record_id);

-- Search tags of a run, sorted, cut into 2^tag_bits buckets by their leading bits.
CREATE TABLE tollgate.tag_segment (
    month int NOT NULL,
    run_id bigint NOT NULL,
    bucket int NOT NULL,
    entries int NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (month, run_id, bucket)
) PARTITION BY LIST (month);

-- Fingerprints of the records of one day, by which duplicates are found without opening a record.
CREATE TABLE tollgate.fingerprint_segment (
    month int NOT NULL,
    day int NOT NULL,
    segment_id bigint NOT NULL,
    level smallint NOT NULL,
    entries int NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (month, day, segment_id)
) PARTITION BY LIST (month);

-- Ciphertext does not compress, and a chunk of it is read by substring: stored out of line as it is. Said here and not in
-- the tables above, because PostgreSQL 15 does not know STORAGE in CREATE TABLE. New partitions copy it.
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'tollgate'::regnamespace AND c.relkind IN ('r', 'p') AND a.atttypid = 'bytea'::regtype
          AND c.relname IN ('ingest_reject', 'run', 'staging', 'batch', 'batch_leg', 'tag_segment', 'fingerprint_segment')
    LOOP
        EXECUTE format('ALTER TABLE tollgate.%I ALTER COLUMN %I SET STORAGE EXTERNAL', wanted.relname, wanted.attname);
    END LOOP;
END
$$;

-- DELETE on these: rolling, merging of fingerprints and shredding replace rows; each is an entry in the log.
GRANT SELECT, INSERT, DELETE ON tollgate.staging, tollgate.batch, tollgate.batch_leg, tollgate.tag_segment,
    tollgate.fingerprint_segment TO tollgate_ingest;

-- A peer's role reads no OCN column (the other side's would stand in it) and no class that billing does not reach.
GRANT SELECT (month, batch_id, pair_id, rows, first_record_id, last_record_id, first_start, last_start, format, classes,
    timing, parties, routing) ON tollgate.batch TO tollgate_billing;
GRANT SELECT ON tollgate.batch_leg, tollgate.tag_segment TO tollgate_billing;

-- The OCNs this transaction acts for, set by the gateway from the permit: '{46656,...}'. Unset: no row.
CREATE FUNCTION tollgate.own_ocns() RETURNS int[] LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('tollgate.ocns', true), '')::int[];
-- The months this transaction's permit reaches.
CREATE FUNCTION tollgate.first_month() RETURNS int LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('tollgate.first_month', true), '')::int;
CREATE FUNCTION tollgate.last_month() RETURNS int LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('tollgate.last_month', true), '')::int;

ALTER TABLE tollgate.staging ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE tollgate.batch ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE tollgate.batch_leg ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE tollgate.tag_segment ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE tollgate.fingerprint_segment ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE tollgate.ingest_reject ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

CREATE POLICY ingest ON tollgate.staging TO tollgate_ingest USING (true) WITH CHECK (true);
CREATE POLICY ingest ON tollgate.batch TO tollgate_ingest USING (true) WITH CHECK (true);
CREATE POLICY ingest ON tollgate.batch_leg TO tollgate_ingest USING (true) WITH CHECK (true);
CREATE POLICY ingest ON tollgate.tag_segment TO tollgate_ingest USING (true) WITH CHECK (true);
CREATE POLICY ingest ON tollgate.fingerprint_segment TO tollgate_ingest USING (true) WITH CHECK (true);
CREATE POLICY ingest ON tollgate.ingest_reject TO tollgate_ingest USING (true) WITH CHECK (true);

-- 47 U.S.C. 222(d)(1): a peer sees batches in which it is a leg, in the permit's months; an unmapped call, nobody.
CREATE POLICY billing ON tollgate.batch FOR SELECT TO tollgate_billing USING (
    (ingress_ocn = ANY (tollgate.own_ocns()) OR egress_ocn = ANY (tollgate.own_ocns()))
    AND ingress_ocn <> -2 AND egress_ocn <> -2
    AND month >= tollgate.first_month() AND month <= tollgate.last_month());
CREATE POLICY billing ON tollgate.batch_leg FOR SELECT TO tollgate_billing USING (
    mapped AND ocn = ANY (tollgate.own_ocns())
    AND month >= tollgate.first_month() AND month <= tollgate.last_month());
CREATE POLICY billing ON tollgate.tag_segment FOR SELECT TO tollgate_billing USING (
    month >= tollgate.first_month() AND month <= tollgate.last_month());

-- Partitions, one a month, made ahead of need by `db migrate` and by ingest. SECURITY DEFINER: the ingest role may make
-- a month's partitions and nothing else. Made apart and then attached, because CREATE ... PARTITION OF would lock out
-- every reader for the rest of the transaction. Rights and policies are the parent's: nobody is granted a partition.
CREATE FUNCTION tollgate.ensure_month(wanted int) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent text;
    part text;
    made boolean := false;
BEGIN
    IF wanted IS NULL OR wanted % 100 NOT BETWEEN 1 AND 12 OR wanted / 100 NOT BETWEEN 2000 AND 2100 THEN
        RAISE EXCEPTION 'not a month: %', wanted USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('tollgate.ensure_month', 0));
    FOREACH parent IN ARRAY ARRAY['staging', 'batch', 'batch_leg', 'tag_segment', 'fingerprint_segment'] LOOP
        part := parent || '_' || wanted;
        IF to_regclass('tollgate.' || part) IS NULL THEN
            EXECUTE format('CREATE TABLE tollgate.%I (LIKE tollgate.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS '
                'INCLUDING STORAGE)', part, parent);
            EXECUTE format('ALTER TABLE tollgate.%I ADD CHECK (month = %s)', part, wanted);
            EXECUTE format('ALTER TABLE tollgate.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', part);
            EXECUTE format('ALTER TABLE tollgate.%I ATTACH PARTITION tollgate.%I FOR VALUES IN (%s)', parent, part,
                wanted);
            made := true;
        END IF;
    END LOOP;
    RETURN made;
END
$$;
REVOKE ALL ON FUNCTION tollgate.ensure_month(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.ensure_month(int) TO tollgate_ingest;

-- Every record id up to this is in a batch that can be read (staged runs are not).
CREATE FUNCTION tollgate.complete_to() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT min(first_record_id) FROM tollgate.run WHERE level = 0),
                    (SELECT next_record_id FROM tollgate.store_head)) - 1
$$;
