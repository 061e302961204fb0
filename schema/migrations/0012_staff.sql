-- Staff: who works here, who they are at the company's OpenID provider, in which roles, trained when, suspended or not.
-- Small tables, read on every staff request. Every change is an entry of the access log, made in the same transaction.
-- Nothing is ever deleted: what ends gets an end, and no end is taken back. Days are UTC days.
-- `change_id` names the change, proposed by one and approved by another, by which a row that widens came here.

CREATE TABLE tollgate.staff (
    staff_id text PRIMARY KEY CHECK (staff_id ~ '^[a-z0-9][a-z0-9._@+-]{0,62}$'),
    issuer text NOT NULL CHECK (issuer <> ''),
    subject text NOT NULL CHECK (char_length(subject) BETWEEN 1 AND 255), -- the provider's `sub`
    name text NOT NULL CHECK (name <> ''),
    title text NOT NULL,
    hired_on date NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now(),
    change_id uuid,
    CONSTRAINT staff_subject UNIQUE (issuer, subject)
);

CREATE TABLE tollgate.staff_role (
    staff_id text NOT NULL REFERENCES tollgate.staff,
    role text NOT NULL CHECK (role IN ('legal_handler', 'legal_approver', 'privacy_officer', 'noc', 'operator')),
    given_at timestamptz NOT NULL DEFAULT now(),
    change_id uuid,
    ended_at timestamptz,
    ended_by text REFERENCES tollgate.staff,
    PRIMARY KEY (staff_id, role, given_at),
    CHECK ((ended_at IS NULL) = (ended_by IS NULL))
);
CREATE UNIQUE INDEX staff_role_live ON tollgate.staff_role (staff_id, role) WHERE ended_at IS NULL;

-- Why stands in the log only, sealed.
CREATE TABLE tollgate.staff_suspension (
    staff_id text NOT NULL REFERENCES tollgate.staff,
    suspended_at timestamptz NOT NULL DEFAULT now(),
    suspended_by text NOT NULL REFERENCES tollgate.staff,
    lifted_at timestamptz,
    change_id uuid, -- the lifting's: to lift is to widen
    PRIMARY KEY (staff_id, suspended_at)
);
CREATE UNIQUE INDEX staff_suspension_live ON tollgate.staff_suspension (staff_id) WHERE lifted_at IS NULL;

-- 47 CFR 64.2009(b). `recorded_by` is null only while the first two operators are set up (staff_training_check).
CREATE TABLE tollgate.staff_training (
    staff_id text NOT NULL REFERENCES tollgate.staff,
    completed_on date NOT NULL,
    course text NOT NULL CHECK (course <> ''),
    recorded_by text REFERENCES tollgate.staff,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (staff_id, completed_on, course),
    CONSTRAINT staff_training_not_oneself CHECK (recorded_by <> staff_id)
);

-- With which a member signs certificates, outside Tollgate. Public keys only; `thumbprint` is RFC 7638.
CREATE TABLE tollgate.staff_key (
    staff_id text NOT NULL REFERENCES tollgate.staff,
    kid text NOT NULL CHECK (kid <> ''),
    alg text NOT NULL CHECK (alg IN ('ES256', 'EdDSA', 'PS256')),
    jwk jsonb NOT NULL,
    thumbprint text NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now(),
    change_id uuid,
    ended_at timestamptz,
    PRIMARY KEY (staff_id, kid)
);
-- A key signs for one person, and once it is ended for nobody ever again.
CREATE UNIQUE INDEX staff_key_one ON tollgate.staff_key (thumbprint);

-- Requests in the current minute, for each person who proved themselves at the provider: SHA-256 of the subject.
CREATE TABLE tollgate.staff_rate (
    who bytea PRIMARY KEY CHECK (octet_length(who) = 32),
    minute timestamptz NOT NULL,
    used int NOT NULL
) WITH (fillfactor = 20);

-- Whether somebody has a role today: theirs, not suspended, trained on or after the day of hire and within a year (that
-- day of the next year included; proxy/staff/model.py has the same rule, and a test holds them together).
CREATE FUNCTION tollgate.staff_active(p_staff text, p_role text, p_day date DEFAULT (now() AT TIME ZONE 'UTC')::date)
    RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM tollgate.staff s
        JOIN tollgate.staff_role r ON r.staff_id = s.staff_id AND r.role = p_role AND r.ended_at IS NULL
        WHERE s.staff_id = p_staff
          AND NOT EXISTS (
                SELECT FROM tollgate.staff_suspension x WHERE x.staff_id = s.staff_id AND x.lifted_at IS NULL)
          AND EXISTS (
                SELECT FROM tollgate.staff_training t
                WHERE t.staff_id = s.staff_id AND t.completed_on >= s.hired_on AND t.completed_on <= p_day
                  AND p_day <= (t.completed_on + interval '1 year')::date))
$$;

-- How many operators there are, for the set-up, which needs nobody's approval: those who are active, and whoever was one
-- until they were suspended, or their role was ended, less than 7 days ago. Else one operator could suspend the other and
-- name a puppet in their place; whoever is suspended has that long to say so.
CREATE FUNCTION tollgate.staff_operators() RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) FROM tollgate.staff s
    WHERE tollgate.staff_active(s.staff_id, 'operator')
        OR EXISTS (SELECT FROM tollgate.staff_role r
            WHERE r.staff_id = s.staff_id AND r.role = 'operator' AND r.ended_at > now() - interval '7 days')
        OR EXISTS (SELECT FROM tollgate.staff_suspension x
            JOIN tollgate.staff_role r ON r.staff_id = x.staff_id AND r.role = 'operator'
                AND (r.ended_at IS NULL OR r.ended_at >= x.suspended_at)
            WHERE x.staff_id = s.staff_id AND x.lifted_at IS NULL AND x.suspended_at > now() - interval '7 days')
$$;

-- For the metrics: those who are active.
CREATE FUNCTION tollgate.staff_operators_active() RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) FROM tollgate.staff s WHERE tollgate.staff_active(s.staff_id, 'operator')
$$;

-- So the times of a suspension and of a role's end are the database's.
CREATE FUNCTION tollgate.staff_end_now() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_TABLE_NAME = 'staff_role' THEN
        NEW.ended_at := now();
    ELSE
        NEW.suspended_at := now();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER staff_end_now BEFORE UPDATE ON tollgate.staff_role
    FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION tollgate.staff_end_now();
CREATE TRIGGER staff_end_now BEFORE INSERT ON tollgate.staff_suspension
    FOR EACH ROW EXECUTE FUNCTION tollgate.staff_end_now();

-- Training is recorded by an operator or privacy officer, of somebody else, and of days that have been. While fewer than
-- two operators are there nobody could: then the set-up (`tollgate staff bootstrap`) records it by itself.
CREATE FUNCTION tollgate.staff_training_check() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.completed_on > (now() AT TIME ZONE 'UTC')::date THEN
        RAISE EXCEPTION 'a training that has not been' USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.recorded_by IS NULL THEN
        -- One set-up at a time: two could each think itself the second operator's.
        PERFORM pg_advisory_xact_lock(hashtextextended('tollgate.staff_bootstrap', 0));
        IF tollgate.staff_operators() >= 2 THEN
            RAISE EXCEPTION 'two operators are active, or were within 7 days: one of them records it' USING ERRCODE = 'check_violation';
        END IF;
    ELSIF NOT tollgate.staff_active(NEW.recorded_by, 'operator')
        AND NOT tollgate.staff_active(NEW.recorded_by, 'privacy_officer') THEN
        RAISE EXCEPTION 'not one who records training' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER staff_training_check BEFORE INSERT ON tollgate.staff_training
    FOR EACH ROW EXECUTE FUNCTION tollgate.staff_training_check();

-- Operator and NOC read no CDRs: neither role goes together with the legal desk's (proxy/staff/model.py: APART).
CREATE FUNCTION tollgate.staff_role_apart() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Two roles given to one person at once see each other.
    PERFORM pg_advisory_xact_lock(hashtextextended('tollgate.staff_role ' || NEW.staff_id, 0));
    IF EXISTS (
        SELECT FROM tollgate.staff_role r
        WHERE r.staff_id = NEW.staff_id AND r.ended_at IS NULL
          AND ((r.role IN ('operator', 'noc') AND NEW.role IN ('legal_handler', 'legal_approver'))
            OR (NEW.role IN ('operator', 'noc') AND r.role IN ('legal_handler', 'legal_approver')))) THEN
        RAISE EXCEPTION 'roles that nobody has together'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'staff_role_apart';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER staff_role_apart BEFORE INSERT ON tollgate.staff_role
    FOR EACH ROW EXECUTE FUNCTION tollgate.staff_role_apart();

-- An end stands: what ended is given anew, by a change, or not at all.
CREATE FUNCTION tollgate.staff_end_stands() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'an end is not taken back or moved' USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER staff_role_end_stands BEFORE UPDATE ON tollgate.staff_role
    FOR EACH ROW WHEN (OLD.ended_at IS NOT NULL) EXECUTE FUNCTION tollgate.staff_end_stands();
CREATE TRIGGER staff_key_end_stands BEFORE UPDATE ON tollgate.staff_key
    FOR EACH ROW WHEN (OLD.ended_at IS NOT NULL) EXECUTE FUNCTION tollgate.staff_end_stands();
CREATE TRIGGER staff_suspension_end_stands BEFORE UPDATE ON tollgate.staff_suspension
    FOR EACH ROW WHEN (OLD.lifted_at IS NOT NULL) EXECUTE FUNCTION tollgate.staff_end_stands();

REVOKE ALL ON FUNCTION tollgate.staff_active(text, text, date), tollgate.staff_training_check(),
    tollgate.staff_role_apart(), tollgate.staff_end_stands(), tollgate.staff_end_now(), tollgate.staff_operators(),
    tollgate.staff_operators_active() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.staff_operators() TO tollgate_operator;
GRANT EXECUTE ON FUNCTION tollgate.staff_operators_active() TO tollgate_monitor;
GRANT EXECUTE ON FUNCTION tollgate.staff_active(text, text, date)
    TO tollgate_oauth, tollgate_operator, tollgate_cases, tollgate_privacy;

GRANT SELECT ON tollgate.staff, tollgate.staff_role, tollgate.staff_suspension, tollgate.staff_training
    TO tollgate_oauth;
GRANT SELECT, INSERT, UPDATE ON tollgate.staff_rate TO tollgate_oauth;
-- UPDATE sets ends only; column-level grants say so.
GRANT SELECT, INSERT ON tollgate.staff, tollgate.staff_role, tollgate.staff_suspension, tollgate.staff_training,
    tollgate.staff_key TO tollgate_operator;
GRANT UPDATE (ended_at, ended_by) ON tollgate.staff_role TO tollgate_operator;
GRANT UPDATE (lifted_at, change_id) ON tollgate.staff_suspension TO tollgate_operator;
GRANT UPDATE (ended_at) ON tollgate.staff_key TO tollgate_operator;
-- The legal desk's rules on people are held by the database too, and certificates name people and their keys.
GRANT SELECT (staff_id, name, title, hired_on) ON tollgate.staff TO tollgate_cases, tollgate_privacy;
GRANT SELECT ON tollgate.staff_role, tollgate.staff_suspension, tollgate.staff_training
    TO tollgate_cases, tollgate_privacy;
GRANT SELECT ON tollgate.staff_key TO tollgate_cases;
