-- Erasing openings of the access log whose time has come (deploy/docs/retention.md). Role RETENTION is granted no table:
-- it erases through two functions, which run as their owner and ask four things of it that it cannot get round: a log.erase
-- entry stands, the log's role has ordered just this part and month under it, the month is over, and the key is on record as
-- destroyed before the first row goes.

-- The newest log.erase entry says of every period erased so far under which policy: fsck and the next erasure read it.
CREATE INDEX log_entry_erase ON tollgate.log_entry (idx) WHERE kind = 'log.erase';

-- What a log.erase entry says is erased, in clear: PostgreSQL cannot read the entry. Only the log's own role, which wrote
-- the entry, says it, and takes nothing back; so no role can both choose what goes and make it go.
CREATE TABLE tollgate.log_erase_order (
    entry_id uuid NOT NULL,
    part text NOT NULL CHECK (part IN ('actor', 'request', 'outcome', 'records', 'tags')),
    month int NOT NULL,
    PRIMARY KEY (entry_id, part, month)
);
GRANT SELECT, INSERT ON tollgate.log_erase_order TO tollgate_log;

-- Raises unless `entry` is a log.erase entry that stands, under which `part` of `month` (yyyymm) was ordered to be erased,
-- and `month` is over.
CREATE FUNCTION tollgate.log_erase_check(entry uuid, part text, month int) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tollgate.log_entry e WHERE e.entry_id = entry AND e.kind = 'log.erase') THEN
        RAISE EXCEPTION 'no log.erase entry % stands in the log: nothing is erased without one', entry
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF month IS NULL OR month >= to_char(timezone('UTC', clock_timestamp()), 'YYYYMM')::int THEN
        RAISE EXCEPTION 'month % is not over', month USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF part IS NULL OR part NOT IN ('actor', 'request', 'outcome', 'records', 'tags') THEN
        RAISE EXCEPTION '% is no part of an entry', part USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT EXISTS (SELECT FROM tollgate.log_erase_order o WHERE o.entry_id = entry
                   AND o.part = log_erase_check.part AND o.month = log_erase_check.month) THEN
        RAISE EXCEPTION 'the log did not order that % of month % be erased under entry %', part, month, entry
            USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;

-- Puts on record that the key of a part's month is destroyed: from then on nobody opens it.
CREATE FUNCTION tollgate.log_erase_key(entry uuid, part text, month int) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tollgate.log_erase_check(entry, part, month);
    INSERT INTO tollgate.data_key_destroyed (key_class, month) VALUES ('log_' || part, month) ON CONFLICT DO NOTHING;
END $$;

-- Deletes at most `most` groups' openings of a part's month; says how many it deleted.
CREATE FUNCTION tollgate.log_erase_openings(entry uuid, part text, month int, most int) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    deleted bigint;
BEGIN
    PERFORM tollgate.log_erase_check(entry, part, month);
    IF NOT EXISTS (SELECT FROM tollgate.data_key_destroyed d
                   WHERE d.key_class = 'log_' || log_erase_openings.part AND d.month = log_erase_openings.month) THEN
        RAISE EXCEPTION 'the key of log_%/% is not on record as destroyed', part, month
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    DELETE FROM tollgate.log_opening o
    WHERE o.part = log_erase_openings.part AND o.month = log_erase_openings.month AND o.batch_id IN (
        SELECT p.batch_id FROM tollgate.log_opening p
        WHERE p.part = log_erase_openings.part AND p.month = log_erase_openings.month
        ORDER BY p.batch_id LIMIT most);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

REVOKE ALL ON FUNCTION tollgate.log_erase_check(uuid, text, int), tollgate.log_erase_key(uuid, text, int),
    tollgate.log_erase_openings(uuid, text, int, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.log_erase_key(uuid, text, int),
    tollgate.log_erase_openings(uuid, text, int, int) TO tollgate_retention;
GRANT SELECT ON tollgate.data_key_destroyed TO tollgate_retention;
GRANT USAGE ON SCHEMA tollgate TO tollgate_retention;
