-- Productions: what was made in answer to an instrument, kept sealed so that it can be handed over again byte for byte
-- after late records, shredding of the store, or an upgrade. Sealed under key class `case` of the case's month, as its
-- documents. In clear: ids, states, counts, dates, and the plain names of files. Nothing is ever deleted.

-- making -> drafted (its files are fixed) -> certified (its package is fixed). A state never goes back.
CREATE TABLE tollgate.production (
    production_id uuid PRIMARY KEY,
    case_id text NOT NULL REFERENCES tollgate.legal_case,
    number int NOT NULL CHECK (number BETWEEN 1 AND 999999),
    key_month int NOT NULL,
    state text NOT NULL CHECK (state IN ('making', 'drafted', 'certified')),
    -- SHA-256 over the facts, which bear the production's random id and more: says nothing of the targets without the key.
    facts_digest bytea NOT NULL CHECK (octet_length(facts_digest) = 32),
    facts bytea NOT NULL,
    -- Whom the certificate names.
    custodian text NOT NULL REFERENCES tollgate.staff,
    begun_at timestamptz NOT NULL DEFAULT now(),
    rows bigint CHECK (rows >= 0),
    pages bigint CHECK (pages >= 1),
    drafted bytea,
    drafted_at timestamptz,
    signed_as text CHECK (signed_as IN ('sshsig', 'pdf', 'text')),
    kid text,
    certified bytea,
    certified_at timestamptz,
    UNIQUE (case_id, number),
    CHECK ((state = 'making') = (drafted IS NULL)),
    CHECK ((drafted IS NULL) = (rows IS NULL) AND (rows IS NULL) = (pages IS NULL) AND (rows IS NULL) = (drafted_at IS NULL)),
    CHECK ((state = 'certified') = (certified IS NOT NULL)),
    CHECK ((certified IS NULL) = (signed_as IS NULL) AND (certified IS NULL) = (kid IS NULL)
        AND (certified IS NULL) = (certified_at IS NULL))
);

-- A file in pieces of at most 1 MiB, each packed and sealed.
CREATE TABLE tollgate.production_piece (
    production_id uuid NOT NULL REFERENCES tollgate.production,
    name text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9.-]{0,80}$'),
    piece int NOT NULL CHECK (piece >= 0),
    sealed bytea NOT NULL,
    PRIMARY KEY (production_id, name, piece)
);

-- To whom a package was encrypted. `recipients` is SHA-256 over the age keys, a line each without the last line's end:
-- for one key, of that key.
CREATE TABLE tollgate.production_delivery (
    delivery_id uuid PRIMARY KEY,
    production_id uuid NOT NULL REFERENCES tollgate.production,
    recipients_digest bytea NOT NULL CHECK (octet_length(recipients_digest) = 32),
    recipients bytea NOT NULL,
    approval_id uuid REFERENCES tollgate.case_approval,
    made_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (production_id, recipients_digest)
);

-- Who may certify: whoever has a role, whichever, today (not suspended, trained).
CREATE FUNCTION tollgate.custodian_active(p_staff text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM tollgate.staff_role r
        WHERE r.staff_id = p_staff AND r.ended_at IS NULL AND tollgate.staff_active(p_staff, r.role))
$$;
REVOKE ALL ON FUNCTION tollgate.custodian_active(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.custodian_active(text) TO tollgate_cases;

-- The second lock on what is fixed.
CREATE FUNCTION tollgate.production_check() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at text;
BEGIN
    SELECT c.state INTO at FROM tollgate.legal_case c WHERE c.case_id = NEW.case_id;
    IF at IS NULL OR at NOT IN ('reviewed', 'certified', 'delivered', 'acknowledged')
        OR (TG_OP = 'INSERT' AND at <> 'reviewed') THEN
        RAISE EXCEPTION 'a production is made of a case that was reviewed' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'production_case';
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'making' THEN
            RAISE EXCEPTION 'a production begins with being made' USING ERRCODE = 'check_violation',
                CONSTRAINT = 'production_state';
        END IF;
    ELSIF NOT (OLD.state = 'making' AND NEW.state = 'drafted' OR OLD.state = 'drafted' AND NEW.state = 'certified')
        OR (OLD.drafted IS NOT NULL AND (NEW.drafted, NEW.rows, NEW.pages, NEW.drafted_at)
            IS DISTINCT FROM (OLD.drafted, OLD.rows, OLD.pages, OLD.drafted_at)) THEN
        RAISE EXCEPTION 'what is fixed of a production stays' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'production_state';
    END IF;
    -- Files that were begun may be finished; who certifies has to be there at both ends.
    IF NEW.state <> 'drafted' AND NOT tollgate.custodian_active(NEW.custodian) THEN
        RAISE EXCEPTION 'the custodian is no active member of staff' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'production_custodian';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fixed BEFORE INSERT OR UPDATE ON tollgate.production
    FOR EACH ROW EXECUTE FUNCTION tollgate.production_check();

-- Files of a draft are written while it is made; what the signature brings, while it is drafted; nothing afterwards.
CREATE FUNCTION tollgate.production_piece_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at text;
BEGIN
    SELECT p.state INTO at FROM tollgate.production p WHERE p.production_id = NEW.production_id FOR KEY SHARE;
    IF at IS DISTINCT FROM (CASE
        WHEN NEW.name IN ('manifest.json', 'manifest.jws', 'certificate.txt.sig', 'certificate-signed.pdf',
            'certificate-signed.txt') THEN 'drafted' ELSE 'making' END) THEN
        RAISE EXCEPTION 'what is fixed of a production stays' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'production_state';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fixed BEFORE INSERT OR UPDATE ON tollgate.production_piece
    FOR EACH ROW EXECUTE FUNCTION tollgate.production_piece_check();

-- The first recipients are those of the case's approval; to others only under a live approval that names just them.
CREATE FUNCTION tollgate.production_delivery_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p record;
BEGIN
    SELECT r.state, r.case_id, c.state AS case_state INTO p
    FROM tollgate.production r JOIN tollgate.legal_case c ON c.case_id = r.case_id
    WHERE r.production_id = NEW.production_id FOR UPDATE OF r;
    IF NOT FOUND OR p.state <> 'certified' OR p.case_state NOT IN ('certified', 'delivered', 'acknowledged') THEN
        RAISE EXCEPTION 'what is delivered is certified' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'production_certified';
    END IF;
    IF EXISTS (SELECT 1 FROM tollgate.production_delivery d WHERE d.production_id = NEW.production_id)
        AND NOT EXISTS (
            SELECT 1 FROM tollgate.case_approval a
            WHERE a.approval_id = NEW.approval_id AND a.case_id = p.case_id AND a.kind = 'redelivery'
              AND a.recipient = NEW.recipients_digest AND a.voided_at IS NULL AND a.expires_at > now()) THEN
        RAISE EXCEPTION 'another recipient needs an approval of its own' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'production_redelivery';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER approved BEFORE INSERT ON tollgate.production_delivery
    FOR EACH ROW EXECUTE FUNCTION tollgate.production_delivery_check();

ALTER TABLE tollgate.production_piece ALTER COLUMN sealed SET STORAGE EXTERNAL;

GRANT SELECT, INSERT ON tollgate.production, tollgate.production_piece, tollgate.production_delivery
    TO tollgate_cases;
GRANT UPDATE (state, rows, pages, drafted, drafted_at, signed_as, kid, certified, certified_at)
    ON tollgate.production TO tollgate_cases;
-- A production that died while it was made is made again over its pieces.
GRANT UPDATE (sealed) ON tollgate.production_piece TO tollgate_cases;

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['production', 'production_piece', 'production_delivery'] LOOP
        EXECUTE format('ALTER TABLE tollgate.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY desk ON tollgate.%I TO tollgate_cases USING (true) WITH CHECK (true)', t);
        -- The owner's own triggers and foreign keys look at what they hold together.
        EXECUTE format('CREATE POLICY integrity ON tollgate.%I TO CURRENT_USER USING (true)', t);
    END LOOP;
END
$$;
