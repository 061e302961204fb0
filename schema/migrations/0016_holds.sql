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
    case_id text NOT NULL REFERENCES tollgate.legal_case,
    kind text NOT NULL CHECK (kind IN ('preservation', 'production')),
    state text NOT NULL CHECK (state IN ('pending', 'active', 'renewed', 'expired', 'superseded', 'lifted')),
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
    CHECK ((state IN ('expired', 'superseded', 'lifted')) = (ended_at IS NOT NULL)),
    CHECK ((state = 'lifted') = (change_id IS NOT NULL)),
    CHECK (destroyed_at IS NULL OR state IN ('expired', 'lifted'))
);
CREATE INDEX hold_case ON tollgate.hold (case_id);

-- A hold moves along its states only, is renewed once, and its clock moves only with its renewal (holds.py: TRANSITIONS).
CREATE FUNCTION tollgate.hold_check() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.state <> OLD.state AND NEW.state <> ALL (CASE OLD.state
            WHEN 'pending' THEN ARRAY['active', 'expired', 'lifted']
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
GRANT UPDATE (state, expires_at, sealed_at, rows, renewed_at, renewed_by, ended_at, destroyed_at) ON tollgate.hold
    TO tollgate_cases;
