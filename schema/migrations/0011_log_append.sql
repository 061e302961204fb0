-- Appending, as one statement that is its own transaction: the head is locked, the time read, the entries placed and the
-- head moved, in one round trip. The time stands in the header and is known only under the lock, so the header is put
-- together here: canonical JSON, from the columns that repeat it and (p_headers) what follows the kind.
--
-- It runs with its caller's rights and gives none: whoever may not insert, or may not move the head, fails in it.
--
-- Returns `written` with the first index and the time, or, with nothing written: `month` (the openings are sealed for
-- another month than it is), `present` (some of the entries stand already; looked for where p_once), `short` (the log has
-- fewer entries, `first`, than p_least, which were acknowledged).
CREATE FUNCTION tollgate.log_append(
    p_once boolean, p_least bigint, p_month int, p_batch uuid,
    p_ids uuid[], p_kinds text[], p_access uuid[], p_headers bytea[], p_tags bytea[],
    p_parts text[], p_sealed bytea[], p_tag bigint[], p_places bytea[],
    OUT state text, OUT first bigint, OUT at timestamptz
) LANGUAGE plpgsql
-- The look-up by id is by index, whatever is thought of the size of a table that only grows.
SET enable_seqscan = off
AS $$
DECLARE
    stamp text;
BEGIN
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
    IF p_once THEN -- only the log's own role may look
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
