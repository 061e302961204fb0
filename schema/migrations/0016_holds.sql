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
    CHECK (expires_at <= requested_at + CASE WHEN renewed_at IS NULL THEN interval '2209 hours' ELSE interval '4369 hours' END),
    CHECK (expires_at >= requested_at + CASE WHEN renewed_at IS NULL THEN interval '2159 hours' ELSE interval '4319 hours' END),
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

-- Every copy has a hold, whoever had it made; the hold knows from the copy itself when it is whole. A copy is not begun
-- from a month that is being shredded: what has begun is waited for, by whoever comes second (tollgate.shred_begin).
CREATE FUNCTION tollgate.held_begins() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    low int := to_char(to_timestamp(NEW.start_us / 1e6) AT TIME ZONE 'UTC', 'YYYYMM')::int;
    high int := to_char(to_timestamp((NEW.end_us - 1) / 1e6) AT TIME ZONE 'UTC', 'YYYYMM')::int;
    found record;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('tollgate.shred', 0));
    IF EXISTS (SELECT FROM tollgate.shred s
               WHERE s.begun_at IS NOT NULL AND s.done_at IS NULL AND s.month BETWEEN low AND high) THEN
        RAISE EXCEPTION 'a month of this window is being shredded' USING ERRCODE = 'object_in_use';
    END IF;
    SELECT h.case_id, h.kind INTO found FROM tollgate.hold h WHERE h.hold_id = NEW.hold_id;
    IF FOUND THEN
        IF found.case_id <> NEW.case_id OR (found.kind = 'production') <> NEW.discloses THEN
            RAISE EXCEPTION 'hold % is another''s', NEW.hold_id USING ERRCODE = 'check_violation';
        END IF;
    ELSE
        INSERT INTO tollgate.hold (hold_id, case_id, kind, state, requested_at, zone, first_month, last_month, made_by,
            expires_at)
        VALUES (NEW.hold_id, NEW.case_id, CASE WHEN NEW.discloses THEN 'production' ELSE 'preservation' END, 'pending',
            now(), 'UTC', low, high, session_user,
            CASE WHEN NOT NEW.discloses THEN timezone('UTC', timezone('UTC', now())::date::timestamp + interval '91 days')
            END);
    END IF;
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

-- Lifting a hold is two people's (change kind hold.lift): the operators' role, in which changes are applied, can do just
-- what an approved change says. It tells the case, which the change does not name.
CREATE FUNCTION tollgate.hold_lift(change uuid) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lifted text;
BEGIN
    UPDATE tollgate.hold SET state = 'lifted', ended_at = now(), change_id = change
    WHERE hold_id = (tollgate.approved_change(change, 'hold.lift')::jsonb)->>'hold'
        AND state IN ('pending', 'active', 'renewed', 'superseded')
    RETURNING case_id INTO lifted;
    RETURN lifted;
END $$;
REVOKE ALL ON FUNCTION tollgate.hold_lift(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.hold_lift(uuid) TO tollgate_operator;

-- Shredding (deploy/docs/keys.md): an order that two operators gave, when it began and when it was done.
CREATE TABLE tollgate.shred (
    change_id uuid PRIMARY KEY,
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

-- Puts an approved change of kind `shred` on record, in the transaction of its approval.
CREATE FUNCTION tollgate.shred_order(change uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked jsonb := tollgate.approved_change(change, 'shred')::jsonb;
BEGIN
    PERFORM tollgate.shred_floor((asked->>'month')::int);
    INSERT INTO tollgate.shred (change_id, month, classes)
    VALUES (change, (asked->>'month')::int, ARRAY(SELECT jsonb_array_elements_text(asked->'classes')));
END $$;

-- What stands of a month and what still needs it. `needed`: a copy of it is being made, or a hold has none yet.
CREATE FUNCTION tollgate.shred_facts(wanted int, OUT batches bigint, OUT rows bigint, OUT needed boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT count(*) FROM tollgate.run r WHERE r.month = wanted),
        (SELECT coalesce(sum(r.rows), 0)::bigint FROM tollgate.run r WHERE r.month = wanted),
        EXISTS (SELECT FROM tollgate.hold h WHERE h.state = 'pending' AND wanted BETWEEN h.first_month AND h.last_month)
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
