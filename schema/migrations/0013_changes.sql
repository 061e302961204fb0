-- Two people for whatever widens access. One proposes a change, another approves it, and in the transaction that approves
-- it the change is made: a row that widens bears the change's id, and is refused unless that change was approved just
-- now, by another than its proposer, and names this row. What narrows (an end, a suspension) needs nobody else.
--
-- Payloads stand in clear, like the tables they become; no telephone number, record or case text is in one.

-- Who proposes and who decides, by role (proxy/staff/model.py). Other parts add kinds of theirs in their own migrations.
CREATE TABLE tollgate.change_kind (
    kind text PRIMARY KEY CHECK (kind ~ '^[a-z]+(\.[a-z]+)+$'),
    proposer text NOT NULL,
    approver text NOT NULL
);
INSERT INTO tollgate.change_kind (kind, proposer, approver) VALUES
    ('carrier.add', 'operator', 'operator'),
    ('ocn.add', 'operator', 'operator'),
    ('agreement.add', 'operator', 'operator'),
    ('client.add', 'operator', 'operator'),
    ('client.key.add', 'operator', 'operator'),
    ('staff.add', 'operator', 'operator'),
    ('staff.role.add', 'operator', 'operator'),
    ('staff.key.add', 'operator', 'operator'),
    ('staff.resume', 'operator', 'operator');

-- `payload` is canonical JSON (RFC 8785) and `digest` its SHA-256: what an approval names. What cannot be one text's
-- digest cannot be stored, and what was approved is what `decided_digest` says was seen.
CREATE TABLE tollgate.change (
    change_id uuid PRIMARY KEY,
    kind text NOT NULL REFERENCES tollgate.change_kind,
    payload text NOT NULL CHECK (octet_length(payload) <= 49152 AND jsonb_typeof(payload::jsonb) = 'object'),
    digest bytea NOT NULL,
    reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 200),
    state text NOT NULL DEFAULT 'proposed'
        CHECK (state IN ('proposed', 'approved', 'refused', 'withdrawn', 'expired')),
    proposed_by text NOT NULL REFERENCES tollgate.staff,
    proposed_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    decided_by text REFERENCES tollgate.staff,
    decided_at timestamptz,
    decided_digest bytea,
    decision_reason text CHECK (char_length(decision_reason) BETWEEN 1 AND 200),
    CONSTRAINT change_digest CHECK (digest = sha256(convert_to(payload, 'UTF8'))),
    CONSTRAINT change_two_people CHECK (decided_by <> proposed_by),
    CONSTRAINT change_decided CHECK ((state IN ('approved', 'refused')) = (decided_by IS NOT NULL)),
    CONSTRAINT change_over CHECK ((state = 'proposed') = (decided_at IS NULL)),
    CONSTRAINT change_seen CHECK (CASE WHEN state = 'approved' THEN decided_digest IS NOT DISTINCT FROM digest
                                       ELSE decided_digest IS NULL END)
);
CREATE INDEX change_open ON tollgate.change (expires_at) WHERE state = 'proposed';
CREATE INDEX change_proposed ON tollgate.change (proposed_at);

-- A change begins proposed, by somebody who may, and is decided once, in time, by somebody who may; times are the
-- database's. Whoever proposed it must still be one who may: what a suspended person left behind is not approved.
CREATE FUNCTION tollgate.change_check() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    may record;
BEGIN
    SELECT k.proposer, k.approver INTO may FROM tollgate.change_kind k WHERE k.kind = NEW.kind;
    IF TG_OP = 'INSERT' THEN
        NEW.proposed_at := now();
        IF NEW.state <> 'proposed' THEN
            RAISE EXCEPTION 'a change begins proposed' USING ERRCODE = 'check_violation', CONSTRAINT = 'change_state';
        END IF;
        IF NEW.expires_at <= now() OR NEW.expires_at > now() + interval '30 days' THEN
            RAISE EXCEPTION 'a change stands for at most 30 days'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'change_expires';
        END IF;
        IF NOT tollgate.staff_active(NEW.proposed_by, may.proposer) THEN
            RAISE EXCEPTION 'not one who may propose this'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'change_proposer';
        END IF;
        RETURN NEW;
    END IF;
    IF OLD.state <> 'proposed' THEN
        RAISE EXCEPTION 'a change is decided once' USING ERRCODE = 'check_violation', CONSTRAINT = 'change_state';
    END IF;
    NEW.decided_at := now();
    IF (now() >= OLD.expires_at) <> (NEW.state = 'expired') THEN
        RAISE EXCEPTION 'too late, or too early to have expired'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'change_expires';
    END IF;
    IF NEW.state IN ('approved', 'refused') AND NOT tollgate.staff_active(NEW.decided_by, may.approver) THEN
        RAISE EXCEPTION 'not one who may decide this' USING ERRCODE = 'check_violation', CONSTRAINT = 'change_approver';
    END IF;
    IF NEW.state = 'approved' AND NOT tollgate.staff_active(NEW.proposed_by, may.proposer) THEN
        RAISE EXCEPTION 'whoever proposed this may no longer'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'change_proposer';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER change_check BEFORE INSERT OR UPDATE ON tollgate.change
    FOR EACH ROW EXECUTE FUNCTION tollgate.change_check();

-- The kind and payload of a change that was approved in this very transaction; anything else is an error. For the
-- triggers of tables whose rows widen; it runs as its owner, so that they need no right on changes.
CREATE FUNCTION tollgate.approved_change(p_change uuid, OUT kind text, OUT payload jsonb)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT c.kind, c.payload::jsonb INTO kind, payload FROM tollgate.change c
    WHERE c.change_id = p_change AND c.state = 'approved' AND c.decided_by <> c.proposed_by AND c.decided_at = now();
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this needs a change that another has approved' USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;

-- Whether the first operators may still be set up without a change: two make changes. One set-up at a time.
CREATE FUNCTION tollgate.staff_unset() RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('tollgate.staff_bootstrap', 0));
    RETURN tollgate.staff_operators() < 2;
END $$;

ALTER TABLE tollgate.carrier ADD COLUMN change_id uuid REFERENCES tollgate.change;
ALTER TABLE tollgate.carrier_ocn ADD COLUMN change_id uuid REFERENCES tollgate.change;
ALTER TABLE tollgate.agreement ADD COLUMN change_id uuid REFERENCES tollgate.change;
ALTER TABLE tollgate.client ADD COLUMN change_id uuid REFERENCES tollgate.change;
ALTER TABLE tollgate.client_key ADD COLUMN change_id uuid REFERENCES tollgate.change;
ALTER TABLE tollgate.staff ADD FOREIGN KEY (change_id) REFERENCES tollgate.change;
ALTER TABLE tollgate.staff_role ADD FOREIGN KEY (change_id) REFERENCES tollgate.change;
ALTER TABLE tollgate.staff_suspension ADD FOREIGN KEY (change_id) REFERENCES tollgate.change;
ALTER TABLE tollgate.staff_key ADD FOREIGN KEY (change_id) REFERENCES tollgate.change;

-- Does the change that a new row bears name this row? Rows from before this migration bear none, and stand.
CREATE FUNCTION tollgate.widens() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
    item jsonb;
    named boolean := false;
BEGIN
    IF NEW.change_id IS NULL AND TG_TABLE_NAME = 'staff' THEN
        IF tollgate.staff_unset() THEN
            RETURN NEW;
        END IF;
    ELSIF NEW.change_id IS NULL AND TG_TABLE_NAME = 'staff_role' THEN
        IF NEW.role = 'operator' AND tollgate.staff_unset() THEN
            RETURN NEW;
        END IF;
    END IF;
    SELECT a.kind, a.payload INTO c FROM tollgate.approved_change(NEW.change_id) a;
    IF TG_TABLE_NAME = 'carrier' THEN
        named := c.kind = 'carrier.add'
            AND c.payload @> jsonb_build_object('carrier', NEW.carrier_id, 'name', NEW.name);
    ELSIF TG_TABLE_NAME = 'carrier_ocn' THEN
        item := jsonb_build_object('ocn', NEW.ocn, 'from', NEW.valid_from, 'to', NEW.valid_to);
        named := c.payload ->> 'carrier' = NEW.carrier_id
            AND ((c.kind = 'carrier.add' AND c.payload -> 'ocns' @> jsonb_build_array(item))
                OR (c.kind = 'ocn.add' AND c.payload @> item));
    ELSIF TG_TABLE_NAME = 'agreement' THEN
        named := c.kind = 'agreement.add' AND c.payload = jsonb_build_object(
            'agreement', NEW.reference, 'carrier', NEW.carrier_id, 'from', NEW.in_force_from, 'to', NEW.in_force_to,
            'cpni_clause', NEW.cpni_clause);
    ELSIF TG_TABLE_NAME = 'client' THEN
        named := c.kind = 'client.add'
            AND c.payload @> jsonb_build_object(
                'client', NEW.client_id, 'carrier', NEW.carrier_id, 'requests_per_minute', NEW.requests_per_minute,
                'rows_per_day', NEW.rows_per_day)
            AND ARRAY(SELECT n::cidr FROM jsonb_array_elements_text(c.payload -> 'networks') n) = NEW.networks;
    ELSIF TG_TABLE_NAME = 'client_key' THEN
        named := c.payload ->> 'client' = NEW.client_id AND NEW.jwk ->> 'kid' = NEW.kid
            AND ((c.kind = 'client.add' AND c.payload -> 'jwks' @> jsonb_build_array(NEW.jwk))
                OR (c.kind = 'client.key.add' AND c.payload -> 'jwk' = NEW.jwk));
    ELSIF TG_TABLE_NAME = 'staff' THEN
        named := c.kind = 'staff.add' AND c.payload @> jsonb_build_object(
            'staff', NEW.staff_id, 'issuer', NEW.issuer, 'subject', NEW.subject, 'name', NEW.name, 'title', NEW.title,
            'hired_on', NEW.hired_on);
    ELSIF TG_TABLE_NAME = 'staff_role' THEN
        named := c.payload ->> 'staff' = NEW.staff_id
            AND ((c.kind = 'staff.add' AND c.payload -> 'roles' @> jsonb_build_array(NEW.role))
                OR (c.kind = 'staff.role.add' AND c.payload ->> 'role' = NEW.role));
    ELSIF TG_TABLE_NAME = 'staff_key' THEN
        named := c.kind = 'staff.key.add' AND NEW.jwk ->> 'kid' = NEW.kid
            AND c.payload @> jsonb_build_object('staff', NEW.staff_id, 'jwk', NEW.jwk);
    ELSIF TG_TABLE_NAME = 'staff_suspension' THEN
        named := c.kind = 'staff.resume' AND c.payload ->> 'staff' = NEW.staff_id;
    END IF;
    IF named IS NOT TRUE THEN
        RAISE EXCEPTION 'the change does not name this' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER widens BEFORE INSERT ON tollgate.carrier FOR EACH ROW EXECUTE FUNCTION tollgate.widens();
CREATE TRIGGER widens BEFORE INSERT ON tollgate.carrier_ocn FOR EACH ROW EXECUTE FUNCTION tollgate.widens();
CREATE TRIGGER widens BEFORE INSERT ON tollgate.agreement FOR EACH ROW EXECUTE FUNCTION tollgate.widens();
CREATE TRIGGER widens BEFORE INSERT ON tollgate.client FOR EACH ROW EXECUTE FUNCTION tollgate.widens();
CREATE TRIGGER widens BEFORE INSERT ON tollgate.client_key FOR EACH ROW EXECUTE FUNCTION tollgate.widens();
CREATE TRIGGER widens BEFORE INSERT ON tollgate.staff FOR EACH ROW EXECUTE FUNCTION tollgate.widens();
CREATE TRIGGER widens BEFORE INSERT ON tollgate.staff_role FOR EACH ROW EXECUTE FUNCTION tollgate.widens();
CREATE TRIGGER widens BEFORE INSERT ON tollgate.staff_key FOR EACH ROW EXECUTE FUNCTION tollgate.widens();
-- To lift a suspension, and to give a period back that was taken back (or to lengthen one), is to widen.
CREATE TRIGGER widens_again BEFORE UPDATE ON tollgate.staff_suspension FOR EACH ROW
    WHEN (NEW.lifted_at IS NOT NULL) EXECUTE FUNCTION tollgate.widens();
CREATE TRIGGER widens_again BEFORE UPDATE ON tollgate.carrier_ocn FOR EACH ROW
    WHEN (OLD.valid_to < NEW.valid_to OR (OLD.valid_to IS NOT NULL AND NEW.valid_to IS NULL))
    EXECUTE FUNCTION tollgate.widens();

-- What was disabled stays disabled: there is no change that undoes it.
CREATE FUNCTION tollgate.stays_disabled() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'what is disabled stays so' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER stays_disabled BEFORE UPDATE ON tollgate.carrier FOR EACH ROW
    WHEN (OLD.disabled_at IS NOT NULL AND NEW.disabled_at IS DISTINCT FROM OLD.disabled_at)
    EXECUTE FUNCTION tollgate.stays_disabled();
CREATE TRIGGER stays_disabled BEFORE UPDATE ON tollgate.agreement FOR EACH ROW
    WHEN (OLD.disabled_at IS NOT NULL AND NEW.disabled_at IS DISTINCT FROM OLD.disabled_at)
    EXECUTE FUNCTION tollgate.stays_disabled();
CREATE TRIGGER stays_disabled BEFORE UPDATE ON tollgate.client FOR EACH ROW
    WHEN (OLD.disabled_at IS NOT NULL AND NEW.disabled_at IS DISTINCT FROM OLD.disabled_at)
    EXECUTE FUNCTION tollgate.stays_disabled();
CREATE TRIGGER stays_disabled BEFORE UPDATE ON tollgate.client_key FOR EACH ROW
    WHEN (OLD.disabled_at IS NOT NULL AND NEW.disabled_at IS DISTINCT FROM OLD.disabled_at)
    EXECUTE FUNCTION tollgate.stays_disabled();

REVOKE ALL ON FUNCTION tollgate.change_check(), tollgate.approved_change(uuid), tollgate.staff_unset(),
    tollgate.widens(), tollgate.stays_disabled() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.approved_change(uuid) TO tollgate_operator, tollgate_cases;
GRANT EXECUTE ON FUNCTION tollgate.staff_unset() TO tollgate_operator;
GRANT SELECT ON tollgate.change_kind TO tollgate_operator;
GRANT SELECT, INSERT ON tollgate.change TO tollgate_operator;
-- What was proposed is never changed; a decision is, by the trigger, made once.
GRANT UPDATE (state, decided_by, decided_digest, decision_reason) ON tollgate.change TO tollgate_operator;
GRANT UPDATE (change_id) ON tollgate.carrier_ocn TO tollgate_operator;
