-- Appending, as one statement that is its own transaction: the head is locked, the time read, the entries placed and the
-- head moved, in one round trip. The time stands in the header and is known only under the lock, so the header is put
-- together here: canonical JSON, from the columns that repeat it and (p_headers) what follows the kind.
--
-- It runs as its owner, and is the only way in: whoever writes to the log can add entries at its end with the time that it
-- is, and nothing else. It tells its caller nothing of the log but its size, the time, and whether an id of theirs stands.
-- What opens the log and what erases from it only the log's own role may write (session_user: who logged in).
--
-- Returns `written` with the first index and the time, or, with nothing written: `month` (the openings are sealed for
-- another month than it is), `present` (some of the entries stand already; looked for where p_once), `short` (the log has
-- fewer entries, `first`, than p_least, which were acknowledged).
CREATE FUNCTION tollgate.log_append(
    p_once boolean, p_least bigint, p_month int, p_batch uuid,
    p_ids uuid[], p_kinds text[], p_access uuid[], p_headers bytea[], p_tags bytea[],
    p_parts text[], p_sealed bytea[], p_tag bigint[], p_places bytea[],
    OUT state text, OUT first bigint, OUT at timestamptz
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- The look-up by id is by index, whatever is thought of the size of a table that only grows.
SET enable_seqscan = off
AS $$
DECLARE
    stamp text;
BEGIN
    IF coalesce(cardinality(p_ids), 0) = 0 THEN -- the head's time would be no entry's
        RAISE EXCEPTION 'nothing to append' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF ('log.origin' = ANY (p_kinds) OR 'log.erase' = ANY (p_kinds))
        AND NOT pg_has_role(session_user, 'tollgate_log', 'MEMBER') THEN
        RAISE EXCEPTION 'only the log''s own role opens it or says what was erased'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- For this transaction's COMMIT, whatever the session or the role says.
    PERFORM set_config('synchronous_commit', 'on', true);
    SELECT h.size, greatest(h.at, clock_timestamp()) INTO first, at FROM tollgate.log_head h WHERE h.id = 1 FOR UPDATE;
    IF first < p_least THEN
        state := 'short';
        RETURN;
    END IF;
    IF to_char(at AT TIME ZONE 'UTC', 'YYYYMM')::int <> p_month THEN
        state := 'month';
        RETURN;
    END IF;
    IF p_once THEN
        -- This statement's snapshot is taken under the lock: it shows what was committed while the lock was waited for.
        IF EXISTS (SELECT 1 FROM tollgate.log_entry e WHERE e.entry_id = ANY (p_ids)) THEN
            state := 'present';
            RETURN;
        END IF;
    END IF;
    stamp := '"at":"' || to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US') || 'Z","id":"';
    INSERT INTO tollgate.log_entry
        (idx, entry_id, at, kind, access_id, batch_id, batch_pos, header, leaf_hash, tags)
    SELECT log_append.first + e.n - 1, e.entry_id, log_append.at, e.kind, e.access_id, p_batch, e.n - 1, e.header,
        sha256('\x00'::bytea || sha256(e.header)), e.tags
    FROM (
        SELECT u.entry_id, u.kind, u.access_id, u.tags, u.n,
            convert_to(
                coalesce('{"access":"' || u.access_id || '",', '{') || stamp || u.entry_id || '","kind":"' || u.kind || '",',
                'UTF8'
            ) || u.header AS header
        FROM unnest(p_ids, p_kinds, p_access, p_headers, p_tags)
            WITH ORDINALITY AS u (entry_id, kind, access_id, header, tags, n)
        OFFSET 0 -- the header is put together once
    ) e;
    INSERT INTO tollgate.log_opening (part, month, batch_id, sealed)
    SELECT o.part, p_month, p_batch, o.sealed FROM unnest(p_parts, p_sealed) AS o (part, sealed);
    INSERT INTO tollgate.log_tag (tag, first, places)
    SELECT t.tag, log_append.first, t.places FROM unnest(p_tag, p_places) AS t (tag, places);
    UPDATE tollgate.log_head h SET size = log_append.first + cardinality(p_ids), at = log_append.at WHERE h.id = 1;
    state := 'written';
END $$;
REVOKE ALL ON FUNCTION tollgate.log_append FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tollgate.log_append TO tollgate_log_writer;

-- The tables themselves are nobody's to write. The log's role locks the head where it has to find out what was committed:
-- a right on its key, which is 1 whatever is written to it, and none on its size and time.
REVOKE UPDATE ON tollgate.log_head FROM tollgate_log_writer;
REVOKE INSERT ON tollgate.log_entry, tollgate.log_opening, tollgate.log_tag FROM tollgate_log_writer;
GRANT UPDATE (id) ON tollgate.log_head TO tollgate_log;
