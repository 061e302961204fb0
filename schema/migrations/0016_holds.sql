-- Holds, shredding, and what nobody but the legal desk may know of (deploy/docs/holds.md).

-- Non-disclosure, in one place: proxy/legal/secrecy.py is the same predicate, and a test holds the two alike. A national
-- security letter's (18 U.S.C. 2709(c)) is never ended by a date.
CREATE FUNCTION tollgate.is_secret(secrecy text, secret_until timestamptz, secrecy_lifted_at timestamptz,
    at timestamptz DEFAULT now()) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN secrecy <> 'none'
        AND (secrecy_lifted_at IS NULL OR secrecy_lifted_at > at)
        AND (secrecy = '2709c' OR secret_until IS NULL OR secret_until > at);

-- The cases that are to be left out of what others than the legal desk see of the log: ids, and nothing else of them.
CREATE FUNCTION tollgate.secret_cases() RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.case_id FROM tollgate.legal_case c WHERE tollgate.is_secret(c.secrecy, c.secret_until, c.secrecy_lifted_at)
$$;
REVOKE ALL ON FUNCTION tollgate.secret_cases() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.secret_cases() TO tollgate_log;

-- A hold (proxy/legal/holds.py). Its copy stands in held_piece, sealed under a key of its own. No row is ever deleted.
CREATE TABLE tollgate.hold (
    hold_id text PRIMARY KEY CHECK (hold_id ~ '^H-[A-Z2-7]{10}$'),
    case_id text NOT NULL CHECK (case_id ~ '^C-[A-Z2-7]{10}$'),
    kind text NOT NULL CHECK (kind IN ('preservation', 'production')),
    state text NOT NULL CHECK (state IN ('pending', 'active', 'renewed', 'expired', 'superseded', 'lifted', 'void')),
    requested_at timestamptz NOT NULL,
    zone text NOT NULL,
    first_month int NOT NULL CHECK (first_month BETWEEN 190001 AND 999912),
    last_month int NOT NULL CHECK (last_month BETWEEN 190001 AND 999912),
    made_by text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    sealed_at timestamptz,
    rows bigint CHECK (rows >= 0),
    renewed_at timestamptz,
    renewed_by text,
    ended_at timestamptz,
    change_id uuid,
    destroyed_at timestamptz,
    CHECK (first_month <= last_month),
    CHECK ((kind = 'preservation') = (expires_at IS NOT NULL)),
    -- 18 U.S.C. 2703(f)(2): 90 days, once 90 more; each to the end of its last day, and a change of the clocks.
    CHECK (expires_at BETWEEN requested_at + interval '1 hour' * CASE WHEN renewed_at IS NULL THEN 2159 ELSE 4319 END
        AND requested_at + interval '1 hour' * CASE WHEN renewed_at IS NULL THEN 2185 ELSE 4345 END),
    CHECK ((renewed_at IS NULL) = (renewed_by IS NULL)),
    CHECK (state <> 'renewed' OR renewed_at IS NOT NULL),
    CHECK (state NOT IN ('active', 'renewed', 'superseded') OR sealed_at IS NOT NULL),
    CHECK ((sealed_at IS NULL) = (rows IS NULL)),
    CHECK ((state IN ('expired', 'superseded', 'lifted', 'void')) = (ended_at IS NOT NULL)),
    CHECK ((state = 'lifted') = (change_id IS NOT NULL)),
    CHECK (destroyed_at IS NULL OR state IN ('expired', 'lifted', 'void'))
);
CREATE INDEX hold_case ON tollgate.hold (case_id);

-- A hold moves along its states only, is renewed once, and its clock moves only with its renewal (holds.py: TRANSITIONS).
CREATE FUNCTION tollgate.hold_check() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.state <> OLD.state AND NEW.state <> ALL (CASE OLD.state
            WHEN 'pending' THEN ARRAY['active', 'expired', 'lifted', 'void']
            WHEN 'active' THEN ARRAY['renewed', 'expired', 'superseded', 'lifted']
            WHEN 'renewed' THEN ARRAY['expired', 'superseded', 'lifted']
            WHEN 'superseded' THEN ARRAY['expired', 'lifted']
            ELSE ARRAY[]::text[] END) THEN
        RAISE EXCEPTION 'a hold that is % does not become %', OLD.state, NEW.state USING ERRCODE = 'check_violation',
            CONSTRAINT = 'hold_transition';
    END IF;
    IF NEW.state = 'expired' AND OLD.state <> 'expired' AND (NEW.expires_at IS NULL OR NEW.expires_at > clock_timestamp())
    THEN
        RAISE EXCEPTION 'the days of the hold are not over' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'hold_clock';
    END IF;
    IF (NEW.expires_at IS DISTINCT FROM OLD.expires_at OR NEW.renewed_at IS DISTINCT FROM OLD.renewed_at)
        AND (OLD.renewed_at IS NOT NULL OR OLD.state <> 'active' OR NEW.state <> 'renewed') THEN
        RAISE EXCEPTION 'a hold is renewed once' USING ERRCODE = 'check_violation', CONSTRAINT = 'hold_clock';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER moves BEFORE UPDATE ON tollgate.hold FOR EACH ROW EXECUTE FUNCTION tollgate.hold_check();

GRANT SELECT ON tollgate.hold TO tollgate_cases;
GRANT INSERT (hold_id, case_id, kind, state, requested_at, zone, first_month, last_month, made_by, expires_at)
    ON tollgate.hold TO tollgate_cases;
GRANT UPDATE (state, expires_at, renewed_at, renewed_by, ended_at) ON tollgate.hold TO tollgate_cases;

-- No copy is begun that the register did not order: what discloses, by an extraction that is open, under the approval that
-- its case stands under; what does not, by a hold that waits for its copy. Every copy has a hold, and the hold knows from
-- the copy itself when it is whole. A copy is not begun from a month that is being shredded: what has begun is waited for,
-- by whoever comes second (tollgate.shred_begin).
CREATE FUNCTION tollgate.held_begins() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    low int := to_char(to_timestamp(NEW.start_us / 1e6) AT TIME ZONE 'UTC', 'YYYYMM')::int;
    high int := to_char(to_timestamp((NEW.end_us - 1) / 1e6) AT TIME ZONE 'UTC', 'YYYYMM')::int;
    theirs record; -- FOUND, in capitals or not, is PL/pgSQL's own
BEGIN
    IF EXISTS (SELECT FROM tollgate.held h WHERE h.hold_id = NEW.hold_id)
        OR NOT EXISTS (SELECT FROM tollgate.legal_case c WHERE c.case_id = NEW.case_id) THEN
        RETURN NEW; -- its keys refuse it
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('tollgate.shred', 0));
    IF EXISTS (SELECT FROM tollgate.shred s
               WHERE s.begun_at IS NOT NULL AND s.done_at IS NULL AND s.month BETWEEN low AND high) THEN
        RAISE EXCEPTION 'a month of this window is being shredded' USING ERRCODE = 'object_in_use';
    END IF;
    SELECT h.case_id, h.kind, h.state INTO theirs FROM tollgate.hold h WHERE h.hold_id = NEW.hold_id;
    IF FOUND AND (theirs.case_id <> NEW.case_id OR (theirs.kind = 'production') <> NEW.discloses) THEN
        RAISE EXCEPTION 'hold % is another''s', NEW.hold_id USING ERRCODE = 'check_violation', CONSTRAINT = 'held_theirs';
    END IF;
    IF NOT NEW.discloses THEN
        IF NOT FOUND OR theirs.state <> 'pending' THEN
            RAISE EXCEPTION 'no hold waits for this copy' USING ERRCODE = 'check_violation',
                CONSTRAINT = 'held_ordered';
        END IF;
        RETURN NEW;
    END IF;
    IF NOT EXISTS (
        SELECT FROM tollgate.case_extraction x
        JOIN tollgate.legal_case c ON c.case_id = x.case_id AND c.approval_id = x.approval_id
            AND c.scope_version = x.scope_version AND c.state = 'approved'
        JOIN tollgate.case_approval a ON a.approval_id = x.approval_id AND a.kind <> 'redelivery'
            AND a.voided_at IS NULL AND a.expires_at > now()
        WHERE x.hold_id = NEW.hold_id AND x.case_id = NEW.case_id AND x.ended_at IS NULL) THEN
        RAISE EXCEPTION 'no extraction was ordered under a live approval' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'held_ordered';
    END IF;
    INSERT INTO tollgate.hold (hold_id, case_id, kind, state, requested_at, zone, first_month, last_month, made_by)
    VALUES (NEW.hold_id, NEW.case_id, 'production', 'pending', now(), 'UTC', low, high, session_user)
    ON CONFLICT DO NOTHING;
    RETURN NEW;
END $$;
CREATE TRIGGER begins BEFORE INSERT ON tollgate.held FOR EACH ROW EXECUTE FUNCTION tollgate.held_begins();

CREATE FUNCTION tollgate.held_ends() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.state = 'complete' THEN
        UPDATE tollgate.hold SET state = 'active', sealed_at = now(), rows = NEW.rows
        WHERE hold_id = NEW.hold_id AND state = 'pending';
    ELSE
        UPDATE tollgate.hold SET state = 'void', ended_at = now() WHERE hold_id = NEW.hold_id AND state = 'pending';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER ends AFTER UPDATE OF state ON tollgate.held FOR EACH ROW
    WHEN (OLD.state = 'running' AND NEW.state <> 'running') EXECUTE FUNCTION tollgate.held_ends();

-- Puts on record that the key of an ended hold is destroyed: nobody reads its copy any more.
CREATE FUNCTION tollgate.hold_key_destroyed(wanted text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tollgate.hold h WHERE h.hold_id = wanted AND h.state IN ('expired', 'lifted', 'void')) THEN
        RAISE EXCEPTION 'hold % has not ended', wanted USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO tollgate.data_key_destroyed (key_class, month)
    SELECT 'hold_' || lower(substr(d.hold_id, 3)), d.key_month FROM tollgate.held d WHERE d.hold_id = wanted
    ON CONFLICT DO NOTHING;
    UPDATE tollgate.hold SET destroyed_at = now() WHERE hold_id = wanted AND destroyed_at IS NULL;
END $$;
REVOKE ALL ON FUNCTION tollgate.hold_key_destroyed(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.hold_key_destroyed(text) TO tollgate_cases;

-- Three kinds of change (proxy/legal/kinds.py). The operators' role, in which changes are applied, can do through these
-- functions just what a change says that was approved in the same transaction.
INSERT INTO tollgate.change_kind (kind, proposer, approver) VALUES
    ('hold.lift', 'legal_handler', 'legal_approver'),
    ('secrecy.lift', 'legal_handler', 'legal_approver'),
    ('store.shred', 'operator', 'operator');

-- The payload of a change of a kind that was approved just now.
CREATE FUNCTION tollgate.approved_payload(change uuid, wanted text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found record;
BEGIN
    SELECT a.kind, a.payload INTO found FROM tollgate.approved_change(change) a;
    IF found.kind IS DISTINCT FROM wanted THEN
        RAISE EXCEPTION 'the change is not one of kind %', wanted USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN found.payload;
END $$;
REVOKE ALL ON FUNCTION tollgate.approved_payload(uuid, text) FROM PUBLIC;

-- Lifts a hold; tells its case, which the change does not name. NULL: there is no such hold, or it has ended.
CREATE FUNCTION tollgate.hold_lift(change uuid) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lifted text;
BEGIN
    UPDATE tollgate.hold h SET state = 'lifted', ended_at = now(), change_id = change
    WHERE h.hold_id = tollgate.approved_payload(change, 'hold.lift') ->> 'hold'
        AND h.state IN ('pending', 'active', 'renewed', 'superseded')
    RETURNING h.case_id INTO lifted;
    RETURN lifted;
END $$;
REVOKE ALL ON FUNCTION tollgate.hold_lift(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.hold_lift(uuid) TO tollgate_operator;
ALTER TABLE tollgate.hold ADD FOREIGN KEY (change_id) REFERENCES tollgate.change;

-- In whatever state a case is, the order that keeps it secret can end.
INSERT INTO tollgate.case_transition (action, from_state, to_state)
SELECT 'unseal', s, s FROM unnest(ARRAY['received', 'validated', 'deficient', 'objected', 'approved', 'extracted',
    'reviewed', 'certified', 'delivered', 'acknowledged', 'closed', 'active', 'renewed', 'expired', 'superseded']) s;

-- Lifts the order that binds a case, as an event of the case. False: there is no such case, or nothing to lift.
CREATE FUNCTION tollgate.secrecy_lift(change uuid, entry uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moved record;
BEGIN
    UPDATE tollgate.legal_case c SET version = c.version + 1, changed_at = now(), secrecy_lifted_at = now()
    WHERE c.case_id = tollgate.approved_payload(change, 'secrecy.lift') ->> 'case'
        AND c.secrecy <> 'none' AND c.secrecy_lifted_at IS NULL
    RETURNING c.case_id, c.version, c.state, c.scope_version INTO moved;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO tollgate.case_event (case_id, version, action, from_state, to_state, actor, capacity, scope_version,
        entry_id)
    SELECT moved.case_id, moved.version, 'unseal', moved.state, moved.state, g.decided_by, 'either', moved.scope_version,
        entry
    FROM tollgate.change g WHERE g.change_id = change;
    RETURN true;
END $$;
REVOKE ALL ON FUNCTION tollgate.secrecy_lift(uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.secrecy_lift(uuid, uuid) TO tollgate_operator;

-- Shredding (deploy/docs/keys.md): an order that two operators gave, when it began and when it was done.
CREATE TABLE tollgate.shred (
    change_id uuid PRIMARY KEY REFERENCES tollgate.change,
    month int NOT NULL CHECK (month BETWEEN 190001 AND 999912 AND month % 100 BETWEEN 1 AND 12),
    classes text[] NOT NULL CHECK (cardinality(classes) BETWEEN 1 AND 11 AND classes <@ ARRAY['timing', 'parties',
        'routing', 'ingress_leg', 'egress_leg', 'location', 'subscriber', 'device', 'source', 'tags', 'fingerprints']),
    ordered_at timestamptz NOT NULL DEFAULT now(),
    entry_id uuid,              -- the log's entry of its beginning
    begun_at timestamptz,
    pending_until timestamptz,  -- until then a backup of the keyring may still have the keys
    done_at timestamptz,
    CHECK ((entry_id IS NULL) = (begun_at IS NULL)),
    CHECK (done_at IS NULL OR begun_at IS NOT NULL)
);
GRANT SELECT ON tollgate.shred TO tollgate_operator;

-- Raises unless 18 whole months of `wanted` (yyyymm) are over: 47 CFR 42.6.
CREATE FUNCTION tollgate.shred_floor(wanted int) RETURNS void LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF wanted IS NULL OR make_date(wanted / 100, wanted % 100, 1) + interval '19 months'
            > timezone('UTC', clock_timestamp()) THEN
        RAISE EXCEPTION 'toll records are kept for 18 months (47 CFR 42.6): month % is younger', wanted
            USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;

-- Puts an approved change of kind store.shred on record, in the transaction of its approval.
CREATE FUNCTION tollgate.shred_order(change uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked jsonb := tollgate.approved_payload(change, 'store.shred');
BEGIN
    PERFORM tollgate.shred_floor((asked->>'month')::int);
    INSERT INTO tollgate.shred (change_id, month, classes)
    VALUES (change, (asked->>'month')::int, ARRAY(SELECT jsonb_array_elements_text(asked->'classes')));
END $$;

-- Whether records are owed to a preservation of which there is no copy: every copy failed, or was never made. It ends with
-- a copy, with a lifting, or with the days of the request.
CREATE FUNCTION tollgate.uncopied(wanted text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM tollgate.legal_case c
            WHERE c.case_id = wanted AND c.instrument = 'preservation' AND c.state IN ('active', 'renewed'))
        AND NOT EXISTS (SELECT FROM tollgate.hold h
            WHERE h.case_id = wanted AND ((h.sealed_at IS NOT NULL AND h.destroyed_at IS NULL) OR h.state = 'lifted'
                OR h.expires_at <= clock_timestamp()))
$$;
REVOKE ALL ON FUNCTION tollgate.uncopied(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.uncopied(text) TO tollgate_cases;

-- What stands of a month and what still needs it. `needed`: a copy of it is being made, a hold or a preservation has none
-- yet, or a case that is open asks for records of it that it has no copy of. Whose, and how many, is not said. `staged`:
-- records wait to be rolled, which they could never be again.
CREATE FUNCTION tollgate.shred_facts(wanted int, OUT batches bigint, OUT rows bigint, OUT staged boolean, OUT needed boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT count(*) FROM tollgate.run r WHERE r.month = wanted),
        (SELECT coalesce(sum(r.rows), 0)::bigint FROM tollgate.run r WHERE r.month = wanted),
        EXISTS (SELECT FROM tollgate.run r WHERE r.month = wanted AND r.level = 0),
        EXISTS (SELECT FROM tollgate.hold h WHERE h.state = 'pending' AND wanted BETWEEN h.first_month AND h.last_month)
        OR EXISTS (
            SELECT FROM tollgate.legal_case c
            JOIN tollgate.case_scope s ON s.case_id = c.case_id AND s.scope_version = c.scope_version
            WHERE wanted BETWEEN s.first_month AND s.last_month
                -- Until it is delivered a case may be extracted anew: narrowed, or approved after it was contested.
                AND (c.state IN ('received', 'deficient', 'validated', 'objected', 'approved', 'extracted', 'reviewed',
                        'certified')
                    OR tollgate.uncopied(c.case_id)))
$$;

-- Begins an order under an entry of the log that names it. From now on no copy is begun of the month.
CREATE FUNCTION tollgate.shred_begin(change uuid, entry uuid, pending timestamptz) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ordered record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('tollgate.shred', 0));
    SELECT s.month, s.begun_at INTO ordered FROM tollgate.shred s WHERE s.change_id = change FOR UPDATE;
    IF NOT FOUND OR ordered.begun_at IS NOT NULL THEN
        RAISE EXCEPTION 'there is no such order to begin' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM tollgate.shred_floor(ordered.month);
    IF (SELECT f.staged FROM tollgate.shred_facts(ordered.month) f) THEN
        RAISE EXCEPTION 'month % has staged records', ordered.month USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF (SELECT f.needed FROM tollgate.shred_facts(ordered.month) f) THEN
        RAISE EXCEPTION 'the legal desk still needs records of month %', ordered.month
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    UPDATE tollgate.shred SET entry_id = entry, begun_at = now(), pending_until = pending WHERE change_id = change;
END $$;

-- Puts on record that the key of a class was destroyed, under an order that has begun and whose entry stands.
CREATE FUNCTION tollgate.shred_key(change uuid, class text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ordered record;
BEGIN
    SELECT s.month INTO ordered FROM tollgate.shred s JOIN tollgate.log_entry e ON e.entry_id = s.entry_id
    WHERE s.change_id = change AND class = ANY (s.classes) AND e.kind = 'store.shred';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no order that has begun says that % be destroyed', class
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO tollgate.data_key_destroyed (key_class, month) VALUES (class, ordered.month) ON CONFLICT DO NOTHING;
END $$;

-- Ends an order; all its keys are on record as destroyed.
CREATE FUNCTION tollgate.shred_done(change uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tollgate.shred s SET done_at = now()
    WHERE s.change_id = change AND s.begun_at IS NOT NULL AND s.done_at IS NULL AND NOT EXISTS (
        SELECT FROM unnest(s.classes) c WHERE NOT EXISTS (
            SELECT FROM tollgate.data_key_destroyed d WHERE d.key_class = c AND d.month = s.month));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the order is not done, or was done before' USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;

REVOKE ALL ON FUNCTION tollgate.shred_floor(int), tollgate.shred_order(uuid), tollgate.shred_facts(int),
    tollgate.shred_begin(uuid, uuid, timestamptz), tollgate.shred_key(uuid, text), tollgate.shred_done(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.shred_order(uuid), tollgate.shred_facts(int),
    tollgate.shred_begin(uuid, uuid, timestamptz), tollgate.shred_key(uuid, text), tollgate.shred_done(uuid)
    TO tollgate_operator;
-- Until now the operators' role could put any period on record as destroyed, by itself.
REVOKE INSERT ON tollgate.data_key_destroyed FROM tollgate_operator;
-- Before a month goes, its data keys are named in the log.
GRANT SELECT (key_class, month, key_id) ON tollgate.data_key TO tollgate_operator;
