-- The authorization server: identifiers that were used, tokens that were revoked. Hashes only. Both are partitioned by
-- the day on which an identifier expires, and whole days are dropped once they are past: nothing is ever deleted row
-- by row. All times are the database's.

CREATE TABLE tollgate.used_jti (
    expires_day date NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (expires_day, hash)
) PARTITION BY RANGE (expires_day);

CREATE TABLE tollgate.token_revoked (
    expires_day date NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (expires_day, hash)
) PARTITION BY RANGE (expires_day);

-- Makes the partitions of the coming days and drops those that ended before yesterday. SECURITY DEFINER, because to
-- make and drop a partition one must own the table, and role OAUTH shall own nothing: it can do this and no more.
-- No argument, a fixed search path, and names made of dates only. Short lock timeout: it is run again within the hour.
CREATE FUNCTION tollgate.oauth_partitions() RETURNS int
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    base text;
    d date;
    old record;
    changed int := 0;
BEGIN
    -- One at a time: two gateways would make the same partition.
    PERFORM pg_advisory_xact_lock(hashtextextended('tollgate.oauth_partitions', 0));
    FOREACH base IN ARRAY ARRAY['used_jti', 'token_revoked'] LOOP
        FOR d IN SELECT today + i FROM generate_series(-1, 3) AS i LOOP
            IF to_regclass(format('tollgate.%I', base || '_' || to_char(d, 'YYYYMMDD'))) IS NULL THEN
                EXECUTE format('CREATE TABLE tollgate.%I PARTITION OF tollgate.%I FOR VALUES FROM (%L) TO (%L)',
                    base || '_' || to_char(d, 'YYYYMMDD'), base, d, d + 1);
                changed := changed + 1;
            END IF;
        END LOOP;
        FOR old IN
            SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = format('tollgate.%I', base)::regclass
              AND c.relname < base || '_' || to_char(today - 1, 'YYYYMMDD')
        LOOP
            EXECUTE format('DROP TABLE tollgate.%I', old.relname);
            changed := changed + 1;
        END LOOP;
    END LOOP;
    RETURN changed;
END
$$;
REVOKE ALL ON FUNCTION tollgate.oauth_partitions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.oauth_partitions() TO tollgate_oauth;
SELECT tollgate.oauth_partitions();

-- Insert and look up; a used identifier cannot be made unused, nor a revocation taken back.
GRANT SELECT, INSERT ON tollgate.used_jti, tollgate.token_revoked TO tollgate_oauth;
