-- The legal desk's register: cases, what was served, what is asked, who approved it. What could say whom a case is about
-- (targets, texts, documents) is sealed under key class `case` of the month of receipt; in clear stand the case's id,
-- instrument, state, dates and counts. Nothing is ever deleted. Every row of case_event has an entry of the access log,
-- made in the same transaction. Productions and holds have migrations of their own.

-- The allowed transitions (proxy/legal/states.py; a test holds the two alike). from_state is '' for a case's first. In which
-- capacity an action is done is the action's, and nobody's word.
CREATE TABLE tollgate.case_transition (
    action text NOT NULL,
    from_state text NOT NULL,
    to_state text NOT NULL,
    capacity text NOT NULL GENERATED ALWAYS AS (CASE
        WHEN action IN ('document', 'object', 'resolve', 'review', 'ack', 'close', 'secret', 'unseal') THEN 'either'
        WHEN action IN ('approve', 'confirm', 'contest') THEN 'approver'
        WHEN action IN ('lapse', 'extracted', 'failed', 'expire') THEN 'system'
        ELSE 'handler' END) STORED,
    PRIMARY KEY (action, from_state, to_state),
    UNIQUE (action, from_state, to_state, capacity)
);
INSERT INTO tollgate.case_transition (action, from_state, to_state) VALUES
    ('open', '', 'received'),
    ('scope', 'received', 'received'), ('scope', 'deficient', 'received'),
    ('validate', 'received', 'validated'), ('validate', 'received', 'deficient'),
    ('narrow', 'received', 'received'), ('narrow', 'deficient', 'received'), ('narrow', 'validated', 'validated'),
    ('narrow', 'objected', 'validated'), ('narrow', 'approved', 'validated'), ('narrow', 'extracted', 'validated'),
    ('narrow', 'reviewed', 'validated'),
    ('object', 'validated', 'objected'), ('object', 'approved', 'objected'),
    ('resolve', 'objected', 'validated'),
    ('approve', 'validated', 'approved'), ('approve', 'extracted', 'extracted'), ('approve', 'reviewed', 'reviewed'),
    ('approve', 'certified', 'certified'), ('approve', 'delivered', 'delivered'),
    ('approve', 'acknowledged', 'acknowledged'),
    ('act', 'validated', 'approved'),
    ('confirm', 'validated', 'validated'), ('confirm', 'objected', 'objected'), ('confirm', 'approved', 'approved'),
    ('confirm', 'extracted', 'extracted'), ('confirm', 'reviewed', 'reviewed'), ('confirm', 'certified', 'certified'),
    ('confirm', 'delivered', 'delivered'),
    ('confirm', 'acknowledged', 'acknowledged'),
    ('contest', 'validated', 'objected'), ('contest', 'objected', 'objected'), ('contest', 'approved', 'objected'),
    ('contest', 'extracted', 'objected'), ('contest', 'reviewed', 'objected'), ('contest', 'certified', 'objected'),
    ('contest', 'delivered', 'delivered'),
    ('contest', 'acknowledged', 'acknowledged'),
    ('lapse', 'approved', 'validated'),
    ('extract', 'approved', 'approved'),
    ('extracted', 'approved', 'extracted'),
    ('failed', 'approved', 'approved'),
    ('review', 'extracted', 'reviewed'),
    ('produce', 'reviewed', 'reviewed'),
    ('certify', 'reviewed', 'certified'),
    ('deliver', 'certified', 'delivered'),
    ('redeliver', 'delivered', 'delivered'), ('redeliver', 'acknowledged', 'acknowledged'),
    ('ack', 'delivered', 'acknowledged'),
    ('close', 'received', 'closed'), ('close', 'deficient', 'closed'), ('close', 'validated', 'closed'),
    ('close', 'objected', 'closed'), ('close', 'approved', 'closed'), ('close', 'extracted', 'closed'),
    ('close', 'reviewed', 'closed'), ('close', 'certified', 'closed'), ('close', 'acknowledged', 'closed'),
    ('preserve', 'validated', 'active'),
    ('renew', 'active', 'renewed'),
    ('expire', 'active', 'expired'), ('expire', 'renewed', 'expired'),
    ('supersede', 'active', 'superseded'), ('supersede', 'renewed', 'superseded'),
    ('close', 'expired', 'closed'), ('close', 'superseded', 'closed');
-- A document, and an order of non-disclosure, may come whatever state a case is in.
INSERT INTO tollgate.case_transition (action, from_state, to_state)
SELECT a, s, s FROM unnest(ARRAY['document', 'secret']) a, unnest(ARRAY['received', 'validated', 'deficient', 'objected',
    'approved', 'extracted', 'reviewed', 'certified', 'delivered', 'acknowledged', 'closed', 'active', 'renewed', 'expired',
    'superseded']) s;
REVOKE ALL ON tollgate.case_transition FROM PUBLIC;

CREATE TABLE tollgate.legal_case (
    case_id text PRIMARY KEY CHECK (case_id ~ '^C-[A-Z2-7]{10}$'),
    instrument text NOT NULL CHECK (instrument ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
    key_month int NOT NULL CHECK (key_month BETWEEN 200001 AND 999912 AND key_month % 100 BETWEEN 1 AND 12),
    opened_by text NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now(),
    -- An opener's own key of this request: the same one sent twice opens one case.
    request_key uuid NOT NULL,
    state text NOT NULL,
    version int NOT NULL CHECK (version >= 1), -- one more with every event
    changed_at timestamptz NOT NULL DEFAULT now(),
    scope_version int NOT NULL DEFAULT 0, -- 0: no scope yet
    approval_id uuid,                     -- the live approval of that scope
    hold_id text,                         -- what was extracted under it, or is being extracted
    production_id uuid,                   -- the production made of that
    preservation text REFERENCES tollgate.legal_case, -- a preservation case whose hold is read too
    return_at timestamptz,                -- when the answer is due
    -- Non-disclosure (proxy/legal/secrecy.py). A date alone never ends an order under 18 U.S.C. 2709(c).
    secrecy text NOT NULL DEFAULT 'none' CHECK (secrecy IN ('none', '2705b', '2709c', 'court_seal')),
    secret_until timestamptz,
    secrecy_lifted_at timestamptz,
    UNIQUE (opened_by, request_key),
    CHECK (preservation <> case_id),
    CHECK (secrecy <> 'none' OR (secret_until IS NULL AND secrecy_lifted_at IS NULL))
);
CREATE INDEX legal_case_state ON tollgate.legal_case (state, changed_at);

-- What is asked, version by version; none is ever changed. `digest` is SHA-256 over the canonical scope, which bears 16
-- random bytes: without the case's key it says nothing of the targets. Only counts and dates stand in clear.
CREATE TABLE tollgate.case_scope (
    case_id text NOT NULL REFERENCES tollgate.legal_case,
    scope_version int NOT NULL CHECK (scope_version >= 1),
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    targets int NOT NULL CHECK (targets BETWEEN 1 AND 100000),
    -- Months of the window (yyyymm): what an open case needs is not shredded.
    first_month int NOT NULL,
    last_month int NOT NULL CHECK (last_month >= first_month),
    made_by text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    narrows boolean NOT NULL, -- made from the version before it
    sealed bytea NOT NULL,
    PRIMARY KEY (case_id, scope_version)
);

-- Sealed texts: what was served (`request`), letters, notes, reasons.
CREATE TABLE tollgate.case_text (
    case_id text NOT NULL REFERENCES tollgate.legal_case,
    part text NOT NULL CHECK (part IN ('request', 'findings', 'letter', 'reason', 'delivery')),
    version int NOT NULL CHECK (version >= 1), -- the case's, when it was written
    sealed bytea NOT NULL,
    PRIMARY KEY (case_id, part, version)
);

-- Documents that were served: their digest, name and findings are sealed; pieces of at most 1 MiB.
CREATE TABLE tollgate.case_document (
    case_id text NOT NULL REFERENCES tollgate.legal_case,
    document_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('instrument', 'nondisclosure', 'correspondence', 'certificate')),
    bytes int NOT NULL CHECK (bytes BETWEEN 1 AND 26214400),
    pages int NOT NULL CHECK (pages >= 1),
    received_by text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    pieces int NOT NULL CHECK (pieces >= 1),
    sealed bytea NOT NULL,
    PRIMARY KEY (case_id, document_id)
);
CREATE TABLE tollgate.case_document_piece (
    case_id text NOT NULL,
    document_id uuid NOT NULL,
    piece int NOT NULL CHECK (piece >= 0),
    sealed bytea NOT NULL,
    PRIMARY KEY (case_id, document_id, piece),
    FOREIGN KEY (case_id, document_id) REFERENCES tollgate.case_document
);

-- An approval of one scope. `emergency`: one person acts at once (18 U.S.C. 2702(c)(4)); another confirms or contests.
CREATE TABLE tollgate.case_approval (
    approval_id uuid PRIMARY KEY,
    case_id text NOT NULL REFERENCES tollgate.legal_case,
    scope_version int NOT NULL,
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    kind text NOT NULL CHECK (kind IN ('approval', 'emergency', 'redelivery')),
    approved_by text NOT NULL,
    approved_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    voided_at timestamptz,
    -- What a redelivery is to: SHA-256 of the new recipient's key.
    recipient bytea CHECK (octet_length(recipient) = 32),
    CHECK (expires_at > approved_at AND expires_at <= approved_at + interval '31 days'),
    CHECK ((kind = 'redelivery') = (recipient IS NOT NULL)),
    FOREIGN KEY (case_id, scope_version) REFERENCES tollgate.case_scope
);
CREATE INDEX case_approval_case ON tollgate.case_approval (case_id, approved_at);
CREATE TABLE tollgate.case_confirmation (
    approval_id uuid PRIMARY KEY REFERENCES tollgate.case_approval,
    verdict text NOT NULL CHECK (verdict IN ('confirmed', 'contested')),
    decided_by text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now()
);

-- An extraction that was ordered, under the approval that it was ordered under. It ends as done, failed or cancelled.
CREATE TABLE tollgate.case_extraction (
    hold_id text PRIMARY KEY CHECK (hold_id ~ '^H-[A-Z2-7]{10}$'),
    case_id text NOT NULL REFERENCES tollgate.legal_case,
    scope_version int NOT NULL,
    approval_id uuid NOT NULL REFERENCES tollgate.case_approval,
    ordered_by text NOT NULL,
    ordered_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    ended_as text CHECK (ended_as IN ('complete', 'failed', 'cancelled')),
    CHECK ((ended_at IS NULL) = (ended_as IS NULL)),
    FOREIGN KEY (case_id, scope_version) REFERENCES tollgate.case_scope
);
CREATE INDEX case_extraction_running ON tollgate.case_extraction (hold_id) WHERE ended_at IS NULL;

-- A production that was ordered: its facts are pinned here, sealed, before the first byte is made. The files themselves
-- stand in a table of their own.
CREATE TABLE tollgate.case_production (
    production_id uuid PRIMARY KEY,
    case_id text NOT NULL REFERENCES tollgate.legal_case,
    number int NOT NULL CHECK (number >= 1),
    hold_id text NOT NULL REFERENCES tollgate.case_extraction,
    made_by text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    drafted_at timestamptz,
    failed text CHECK (failed ~ '^[a-z_.]{1,40}$'),
    sealed bytea NOT NULL,
    UNIQUE (case_id, number)
);
CREATE INDEX case_production_open ON tollgate.case_production (production_id)
    WHERE drafted_at IS NULL AND failed IS NULL;

-- What happened, in order: the case's version after it, who did it, in which of the two capacities ('system': nobody).
CREATE TABLE tollgate.case_event (
    case_id text NOT NULL REFERENCES tollgate.legal_case,
    version int NOT NULL,
    action text NOT NULL,
    from_state text NOT NULL,
    to_state text NOT NULL,
    actor text NOT NULL,
    capacity text NOT NULL CHECK (capacity IN ('handler', 'approver', 'either', 'system')),
    scope_version int NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    entry_id uuid NOT NULL,
    PRIMARY KEY (case_id, version),
    FOREIGN KEY (action, from_state, to_state, capacity)
        REFERENCES tollgate.case_transition (action, from_state, to_state, capacity),
    CHECK ((capacity = 'system') = (actor = ''))
);

-- Whether an emergency's act stops what is to be done under an approval: another has contested it, and that approval is not
-- a second person's since; or 48 hours are over and nobody has confirmed it. A voided act counts as any other: narrowing a
-- scope does not undo what was done.
CREATE FUNCTION tollgate.case_emergency_stops(wanted text, under uuid) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM tollgate.case_approval a
        LEFT JOIN tollgate.case_confirmation f ON f.approval_id = a.approval_id
        WHERE a.case_id = wanted AND a.kind = 'emergency' AND (
            (f.verdict IS NULL AND a.approved_at + interval '48 hours' <= now())
            OR (f.verdict = 'contested' AND NOT EXISTS (
                SELECT FROM tollgate.case_approval n
                WHERE n.approval_id = under AND n.kind = 'approval' AND n.approved_at > f.decided_at))))
$$;

-- Whether what was asked last was found deficient, and no document has come since.
CREATE FUNCTION tollgate.case_found_deficient(wanted text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM tollgate.case_event v
        WHERE v.case_id = wanted AND v.action = 'validate' AND v.to_state = 'deficient' AND NOT EXISTS (
            SELECT FROM tollgate.case_event d
            WHERE d.case_id = wanted AND d.action = 'document' AND d.version > v.version))
$$;

-- The second lock on two people: nobody is handler and approver of one case, whatever the gateway thinks.
CREATE FUNCTION tollgate.case_event_check() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Not suspended, trained (47 CFR 64.2009(b)), and still in the role.
    IF NOT (CASE NEW.capacity
        WHEN 'handler' THEN tollgate.staff_active(NEW.actor, 'legal_handler')
        WHEN 'approver' THEN tollgate.staff_active(NEW.actor, 'legal_approver')
        WHEN 'either' THEN tollgate.staff_active(NEW.actor, 'legal_handler')
            OR tollgate.staff_active(NEW.actor, 'legal_approver')
        ELSE true END) THEN
        RAISE EXCEPTION 'not one of the desk' USING ERRCODE = 'check_violation', CONSTRAINT = 'case_staff';
    END IF;
    IF (NEW.capacity = 'handler' AND EXISTS (
            SELECT 1 FROM tollgate.case_event e
            WHERE e.case_id = NEW.case_id AND e.actor = NEW.actor AND e.capacity = 'approver'))
        OR (NEW.capacity = 'approver' AND (
            EXISTS (
                SELECT 1 FROM tollgate.case_event e
                WHERE e.case_id = NEW.case_id AND e.actor = NEW.actor AND e.capacity = 'handler')
            OR EXISTS (
                SELECT 1 FROM tollgate.legal_case l WHERE l.case_id = NEW.case_id AND l.opened_by = NEW.actor))) THEN
        RAISE EXCEPTION 'one person cannot be handler and approver of a case' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'case_two_people';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER two_people BEFORE INSERT ON tollgate.case_event FOR EACH ROW EXECUTE FUNCTION tollgate.case_event_check();

CREATE FUNCTION tollgate.case_approval_check() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
BEGIN
    -- Since when it stands is what it is judged by.
    NEW.approved_at := now();
    SELECT l.state, l.scope_version, l.instrument, l.opened_by, s.digest INTO c
    FROM tollgate.legal_case l JOIN tollgate.case_scope s ON s.case_id = l.case_id AND s.scope_version = l.scope_version
    WHERE l.case_id = NEW.case_id;
    IF NOT FOUND OR c.scope_version <> NEW.scope_version OR c.digest <> NEW.digest THEN
        RAISE EXCEPTION 'an approval is of the scope as it stands' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'case_approval_scope';
    END IF;
    IF NOT tollgate.staff_active(
        NEW.approved_by, (CASE NEW.kind WHEN 'emergency' THEN 'legal_handler' ELSE 'legal_approver' END)) THEN
        RAISE EXCEPTION 'not one who approves' USING ERRCODE = 'check_violation', CONSTRAINT = 'case_staff';
    END IF;
    IF NEW.kind = 'emergency' THEN
        IF c.instrument <> 'emergency' THEN
            RAISE EXCEPTION 'one person acts in an emergency only' USING ERRCODE = 'check_violation',
                CONSTRAINT = 'case_two_people';
        END IF;
        -- One person's word counts once, until another has confirmed it.
        IF EXISTS (
            SELECT 1 FROM tollgate.case_approval a
            WHERE a.case_id = NEW.case_id AND a.kind = 'emergency' AND NOT EXISTS (
                SELECT 1 FROM tollgate.case_confirmation f
                WHERE f.approval_id = a.approval_id AND f.verdict = 'confirmed')) THEN
            RAISE EXCEPTION 'what was done before is not confirmed' USING ERRCODE = 'check_violation',
                CONSTRAINT = 'case_emergency';
        END IF;
    ELSIF c.opened_by = NEW.approved_by OR EXISTS (
        SELECT 1 FROM tollgate.case_scope s
        WHERE s.case_id = NEW.case_id AND s.made_by = NEW.approved_by) OR EXISTS (
        SELECT 1 FROM tollgate.case_extraction x
        WHERE x.case_id = NEW.case_id AND x.ordered_by = NEW.approved_by) OR EXISTS (
        SELECT 1 FROM tollgate.case_event e
        WHERE e.case_id = NEW.case_id AND e.actor = NEW.approved_by AND e.capacity = 'handler') THEN
        RAISE EXCEPTION 'nobody approves a case that they handled' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'case_two_people';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER as_it_stands BEFORE INSERT ON tollgate.case_approval
    FOR EACH ROW EXECUTE FUNCTION tollgate.case_approval_check();

CREATE FUNCTION tollgate.case_confirmation_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT tollgate.staff_active(NEW.decided_by, 'legal_approver') THEN
        RAISE EXCEPTION 'not one who approves' USING ERRCODE = 'check_violation', CONSTRAINT = 'case_staff';
    END IF;
    IF NOT EXISTS (
        SELECT 1 FROM tollgate.case_approval a
        WHERE a.approval_id = NEW.approval_id AND a.kind = 'emergency' AND a.approved_by <> NEW.decided_by)
        OR EXISTS (
            SELECT 1 FROM tollgate.case_approval a JOIN tollgate.case_event e ON e.case_id = a.case_id
            WHERE a.approval_id = NEW.approval_id AND e.actor = NEW.decided_by AND e.capacity = 'handler') THEN
        RAISE EXCEPTION 'another person confirms or contests what was done in an emergency'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'case_two_people';
    END IF;
    NEW.decided_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER another BEFORE INSERT ON tollgate.case_confirmation
    FOR EACH ROW EXECUTE FUNCTION tollgate.case_confirmation_check();

-- A case moves one version at a time, along an allowed transition, and into `approved` or `extracted` only under an
-- approval of the very scope it has that is neither voided nor past. A new scope takes the approval with it.
CREATE FUNCTION tollgate.legal_case_check() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.version <> OLD.version + 1 THEN
        RAISE EXCEPTION 'a case moves one version at a time' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'case_version';
    END IF;
    IF NOT EXISTS (
        SELECT 1 FROM tollgate.case_transition t WHERE t.from_state = OLD.state AND t.to_state = NEW.state) THEN
        RAISE EXCEPTION 'not an allowed transition' USING ERRCODE = 'check_violation', CONSTRAINT = 'case_transition';
    END IF;
    IF NEW.scope_version <> OLD.scope_version AND (
        NEW.scope_version <> OLD.scope_version + 1 OR NEW.approval_id IS NOT NULL OR NEW.hold_id IS NOT NULL
        OR NEW.production_id IS NOT NULL OR NEW.state NOT IN ('received', 'validated')) THEN
        RAISE EXCEPTION 'a new scope voids the approval' USING ERRCODE = 'check_violation', CONSTRAINT = 'case_scope';
    END IF;
    IF NEW.state IN ('approved', 'extracted', 'reviewed', 'certified') AND NOT EXISTS (
        SELECT 1 FROM tollgate.case_approval a
        WHERE a.approval_id = NEW.approval_id AND a.case_id = NEW.case_id AND a.scope_version = NEW.scope_version
          AND a.kind <> 'redelivery' AND a.voided_at IS NULL) THEN
        RAISE EXCEPTION 'no approval of this scope' USING ERRCODE = 'check_violation', CONSTRAINT = 'case_approved';
    END IF;
    -- Nothing goes out under an approval that has run out.
    IF NEW.state = 'delivered' AND OLD.state <> 'delivered' AND NOT EXISTS (
        SELECT 1 FROM tollgate.case_approval a
        WHERE a.approval_id = NEW.approval_id AND a.case_id = NEW.case_id AND a.scope_version = NEW.scope_version
          AND a.kind <> 'redelivery' AND a.voided_at IS NULL AND a.expires_at > now()) THEN
        RAISE EXCEPTION 'no live approval' USING ERRCODE = 'check_violation', CONSTRAINT = 'case_approved';
    END IF;
    IF NEW.state = 'delivered' AND OLD.state <> 'delivered'
        AND tollgate.case_emergency_stops(NEW.case_id, NEW.approval_id) THEN
        RAISE EXCEPTION 'an emergency is not confirmed, or was contested' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'case_emergency';
    END IF;
    IF NEW.state = 'closed' AND OLD.state <> 'closed' AND EXISTS (
        SELECT 1 FROM tollgate.case_approval a
        WHERE a.case_id = NEW.case_id AND a.kind = 'emergency' AND NOT EXISTS (
            SELECT 1 FROM tollgate.case_confirmation f WHERE f.approval_id = a.approval_id)) THEN
        RAISE EXCEPTION 'an emergency is neither confirmed nor contested' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'case_emergency';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER moves BEFORE UPDATE ON tollgate.legal_case FOR EACH ROW EXECUTE FUNCTION tollgate.legal_case_check();

-- An order of non-disclosure is lifted by two people only (tollgate.secrecy_lift). Whatever else names it is a new order,
-- which does not end before the one that binds now; a national security letter's is ended by no date, and stays one. What
-- was lifted, or has run out, binds again from then on.
CREATE FUNCTION tollgate.legal_case_secrecy() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ends timestamptz := CASE WHEN NEW.secrecy = '2709c' THEN 'infinity' ELSE coalesce(NEW.secret_until, 'infinity') END;
    ended timestamptz := CASE
        WHEN OLD.secrecy = 'none' OR OLD.secrecy_lifted_at <= now() THEN '-infinity'
        WHEN OLD.secrecy = '2709c' THEN 'infinity' ELSE coalesce(OLD.secret_until, 'infinity') END;
BEGIN
    IF NEW.secrecy = 'none' OR ends <= now() OR ends < ended
        OR (OLD.secrecy = '2709c' AND ended = 'infinity' AND NEW.secrecy <> '2709c') THEN
        RAISE EXCEPTION 'an order of non-disclosure only gets stronger' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'case_secrecy';
    END IF;
    NEW.secrecy_lifted_at := NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER secrecy BEFORE UPDATE OF secrecy, secret_until ON tollgate.legal_case
    FOR EACH ROW EXECUTE FUNCTION tollgate.legal_case_secrecy();

-- Looked at before COMMIT: what the desk did to a case is an event of it, of that version and that very transition, and
-- only the actions that do so change its scope, its approval, its extraction or its secrecy.
CREATE FUNCTION tollgate.legal_case_told() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    done text;
    came_from text := '';
BEGIN
    IF TG_OP = 'UPDATE' THEN
        came_from := OLD.state;
    END IF;
    SELECT e.action INTO done FROM tollgate.case_event e
    WHERE e.case_id = NEW.case_id AND e.version = NEW.version AND e.from_state = came_from AND e.to_state = NEW.state
      AND e.scope_version = NEW.scope_version AND (TG_OP = 'UPDATE' OR e.actor = NEW.opened_by);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'a case moves with its event only' USING ERRCODE = 'check_violation', CONSTRAINT = 'case_event';
    END IF;
    IF TG_OP = 'UPDATE' AND (
        (NEW.scope_version <> OLD.scope_version AND done NOT IN ('scope', 'validate', 'narrow'))
        OR (NEW.approval_id IS DISTINCT FROM OLD.approval_id AND NEW.approval_id IS NOT NULL
            AND done NOT IN ('approve', 'act', 'confirm'))
        OR (NEW.hold_id IS DISTINCT FROM OLD.hold_id AND NEW.hold_id IS NOT NULL AND done <> 'extract')
        OR ((NEW.secrecy, NEW.secret_until, NEW.secrecy_lifted_at)
            IS DISTINCT FROM (OLD.secrecy, OLD.secret_until, OLD.secrecy_lifted_at) AND done <> 'secret')) THEN
        RAISE EXCEPTION 'another action than the event says' USING ERRCODE = 'check_violation', CONSTRAINT = 'case_event';
    END IF;
    RETURN NULL;
END $$;
-- The desk's role: what is lifted (0016_holds.sql) brings its event by itself.
CREATE CONSTRAINT TRIGGER told AFTER INSERT OR UPDATE ON tollgate.legal_case DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (current_user = 'tollgate_cases') EXECUTE FUNCTION tollgate.legal_case_told();

-- Nothing is extracted but under an approval of the scope as it stands, neither voided nor past.
CREATE FUNCTION tollgate.case_extraction_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM tollgate.legal_case c JOIN tollgate.case_approval a ON a.approval_id = c.approval_id
        WHERE c.case_id = NEW.case_id AND c.state = 'approved' AND c.scope_version = NEW.scope_version
          AND a.approval_id = NEW.approval_id AND a.scope_version = NEW.scope_version AND a.kind <> 'redelivery'
          AND a.voided_at IS NULL AND a.expires_at > now()) THEN
        RAISE EXCEPTION 'no live approval of this scope' USING ERRCODE = 'check_violation', CONSTRAINT = 'case_approved';
    END IF;
    IF tollgate.case_emergency_stops(NEW.case_id, NEW.approval_id) THEN
        RAISE EXCEPTION 'an emergency is not confirmed, or was contested' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'case_emergency';
    END IF;
    IF EXISTS (
        SELECT 1 FROM tollgate.case_approval a
        WHERE a.case_id = NEW.case_id AND a.kind <> 'emergency' AND a.approved_by = NEW.ordered_by) THEN
        RAISE EXCEPTION 'nobody extracts what they approved' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'case_two_people';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER approved BEFORE INSERT ON tollgate.case_extraction
    FOR EACH ROW EXECUTE FUNCTION tollgate.case_extraction_check();

-- A scope narrows by count and by months too, where it was made from another; the gateway compares the sealed targets
-- themselves. It is made anew only until it was validated, and of what was found deficient only by a new document.
CREATE FUNCTION tollgate.case_scope_check() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM tollgate.legal_case c
        WHERE c.case_id = NEW.case_id AND c.scope_version = NEW.scope_version - 1
          AND (NEW.narrows OR c.state IN ('received', 'deficient')))
        OR (NOT NEW.narrows AND tollgate.case_found_deficient(NEW.case_id))
        OR (NEW.narrows AND NOT EXISTS (
        SELECT 1 FROM tollgate.case_scope s
        WHERE s.case_id = NEW.case_id AND s.scope_version = NEW.scope_version - 1 AND s.targets >= NEW.targets
          AND s.first_month <= NEW.first_month AND s.last_month >= NEW.last_month)) THEN
        RAISE EXCEPTION 'a scope is narrowed, never widened' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'case_scope';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER narrows BEFORE INSERT ON tollgate.case_scope
    FOR EACH ROW WHEN (current_user = 'tollgate_cases') EXECUTE FUNCTION tollgate.case_scope_check();

ALTER TABLE tollgate.case_scope ALTER COLUMN sealed SET STORAGE EXTERNAL;
ALTER TABLE tollgate.case_production ALTER COLUMN sealed SET STORAGE EXTERNAL;
ALTER TABLE tollgate.case_text ALTER COLUMN sealed SET STORAGE EXTERNAL;
ALTER TABLE tollgate.case_document ALTER COLUMN sealed SET STORAGE EXTERNAL;
ALTER TABLE tollgate.case_document_piece ALTER COLUMN sealed SET STORAGE EXTERNAL;

-- Rights. UPDATE only of what moves; who opened a case, its instrument and key stay. A case begins at its beginning. No
-- DELETE for anybody.
GRANT USAGE ON SCHEMA tollgate TO tollgate_cases, tollgate_legal;
GRANT SELECT ON tollgate.case_transition TO tollgate_cases;
GRANT SELECT ON tollgate.legal_case TO tollgate_cases;
GRANT INSERT (case_id, instrument, key_month, opened_by, request_key, state, version, preservation, return_at, secrecy,
    secret_until) ON tollgate.legal_case TO tollgate_cases;
GRANT SELECT, INSERT ON tollgate.case_scope, tollgate.case_text, tollgate.case_document,
    tollgate.case_document_piece, tollgate.case_approval, tollgate.case_confirmation, tollgate.case_event,
    tollgate.case_extraction, tollgate.case_production
    TO tollgate_cases;
GRANT UPDATE (state, version, changed_at, scope_version, approval_id, hold_id, production_id, return_at, secrecy, secret_until)
    ON tollgate.legal_case TO tollgate_cases;
GRANT UPDATE (voided_at) ON tollgate.case_approval TO tollgate_cases;
GRANT UPDATE (ended_at, ended_as) ON tollgate.case_extraction TO tollgate_cases;
GRANT UPDATE (drafted_at, failed) ON tollgate.case_production TO tollgate_cases;
-- The extraction asks of the register whether the case is approved for it, and by whom; it reads no sealed column.
GRANT SELECT (case_id, instrument, state, version, scope_version, approval_id, hold_id, preservation)
    ON tollgate.legal_case TO tollgate_legal;
GRANT SELECT (approval_id, case_id, scope_version, digest, kind, approved_by, approved_at, expires_at, voided_at)
    ON tollgate.case_approval TO tollgate_legal;

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['legal_case', 'case_scope', 'case_text', 'case_document', 'case_document_piece',
        'case_production'] LOOP
        EXECUTE format('ALTER TABLE tollgate.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY desk ON tollgate.%I TO tollgate_cases USING (true) WITH CHECK (true)', t);
    END LOOP;
END
$$;
CREATE POLICY opened ON tollgate.legal_case AS RESTRICTIVE FOR INSERT TO tollgate_cases
    WITH CHECK (state = 'received' AND version = 1);
CREATE POLICY extraction ON tollgate.legal_case FOR SELECT TO tollgate_legal USING (true);
