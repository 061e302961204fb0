-- Who may ask: carriers, the OCNs that are theirs and since when, agreements, API clients and their public keys.
-- Small tables, read on every request and written by hand (`tollgate carrier|agreement|client`). Every change is an
-- entry of the access log, made in the same transaction. Nothing is ever deleted: what ends gets an end.
-- Dates are UTC days; every period is half-open: from its first day, until before its last.

CREATE TABLE tollgate.carrier (
    carrier_id text PRIMARY KEY CHECK (carrier_id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    name text NOT NULL CHECK (name <> ''),
    added_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz
);

-- An operating company number and whose it was when. `code` is the OCN as an integer (schema/fields.py: ocn_code),
-- so that the exclusion below needs no extension: at any moment an OCN is one carrier's.
CREATE TABLE tollgate.carrier_ocn (
    ocn text NOT NULL CHECK (ocn ~ '^[0-9A-Z]{4}$'),
    code int NOT NULL CHECK (code >= 0),
    valid_from date NOT NULL,
    valid_to date,
    carrier_id text NOT NULL REFERENCES tollgate.carrier,
    PRIMARY KEY (ocn, carrier_id, valid_from),
    CHECK (valid_to IS NULL OR valid_to >= valid_from), -- equal: taken back, it never was
    CONSTRAINT carrier_ocn_one_owner EXCLUDE USING gist
        (int4range(code, code, '[]') WITH &&, daterange(valid_from, valid_to) WITH &&)
);
CREATE INDEX carrier_ocn_carrier ON tollgate.carrier_ocn (carrier_id);

-- An interconnection agreement with a CPNI clause (47 U.S.C. 222(d)(1)): the basis of every token.
CREATE TABLE tollgate.agreement (
    reference text PRIMARY KEY CHECK (reference <> ''),
    carrier_id text NOT NULL REFERENCES tollgate.carrier,
    in_force_from date NOT NULL,
    in_force_to date,
    cpni_clause text NOT NULL CHECK (cpni_clause <> ''),
    added_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz,
    CHECK (in_force_to IS NULL OR in_force_to > in_force_from)
);
CREATE INDEX agreement_carrier ON tollgate.agreement (carrier_id);

CREATE TABLE tollgate.client (
    client_id text PRIMARY KEY CHECK (client_id ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    carrier_id text NOT NULL REFERENCES tollgate.carrier,
    networks cidr[] NOT NULL CHECK (cardinality(networks) > 0),
    requests_per_minute int NOT NULL CHECK (requests_per_minute > 0),
    rows_per_day bigint NOT NULL CHECK (rows_per_day > 0),
    added_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz
);
CREATE INDEX client_carrier ON tollgate.client (carrier_id);

-- Public keys only (checked in proxy/registry/jwk.py); `thumbprint` is RFC 7638.
CREATE TABLE tollgate.client_key (
    client_id text NOT NULL REFERENCES tollgate.client,
    kid text NOT NULL CHECK (kid <> ''),
    alg text NOT NULL CHECK (alg IN ('ES256', 'EdDSA', 'PS256')),
    jwk jsonb NOT NULL,
    thumbprint text NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz,
    PRIMARY KEY (client_id, kid)
);
-- One live key proves one client: a key shared by two would make one's theft the other's.
CREATE UNIQUE INDEX client_key_live ON tollgate.client_key (thumbprint) WHERE disabled_at IS NULL;

-- Requests in the current minute: one row for each client, overwritten in place.
CREATE TABLE tollgate.client_rate (
    client_id text PRIMARY KEY,
    minute timestamptz NOT NULL,
    used int NOT NULL
) WITH (fillfactor = 20);

-- Rows disclosed on a UTC day, against rows_per_day.
CREATE TABLE tollgate.client_usage (
    client_id text NOT NULL,
    day date NOT NULL,
    rows bigint NOT NULL CHECK (rows >= 0),
    PRIMARY KEY (client_id, day)
);

GRANT SELECT ON tollgate.carrier, tollgate.carrier_ocn, tollgate.agreement, tollgate.client, tollgate.client_key
    TO tollgate_oauth;
GRANT SELECT, INSERT, UPDATE ON tollgate.client_rate, tollgate.client_usage TO tollgate_oauth;
-- UPDATE sets ends only (valid_to, in_force_to, disabled_at); a column-level grant says so.
GRANT SELECT, INSERT ON tollgate.carrier, tollgate.carrier_ocn, tollgate.agreement, tollgate.client,
    tollgate.client_key TO tollgate_operator;
GRANT UPDATE (disabled_at) ON tollgate.carrier, tollgate.agreement, tollgate.client, tollgate.client_key
    TO tollgate_operator;
GRANT UPDATE (valid_to) ON tollgate.carrier_ocn TO tollgate_operator;
GRANT SELECT ON tollgate.client_usage TO tollgate_operator;
