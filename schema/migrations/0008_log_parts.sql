-- A fourth part, `records`: what whoever asked is not shown of its own access. A part that no entry of a group has is no
-- row, and an entry without a part has an empty chunk where others of its group have one.
ALTER TABLE tollgate.log_opening
    DROP CONSTRAINT log_opening_part_check,
    ADD CONSTRAINT log_opening_part_check CHECK (part IN ('actor', 'request', 'outcome', 'records'));

-- Where a tag stands, by stretches of the log: one row for each tag of a stretch, with the places of the entries that
-- bear it, counted from the stretch's first index (16 bits each, big-endian, ascending). It only repeats log_entry.tags.
ALTER TABLE tollgate.log_tag RENAME TO log_tag_single;
CREATE TABLE tollgate.log_tag (
    tag bigint NOT NULL,
    first bigint NOT NULL CHECK (first >= 0),
    places bytea NOT NULL CHECK (octet_length(places) > 0 AND octet_length(places) % 2 = 0)
);
INSERT INTO tollgate.log_tag (tag, first, places)
    SELECT t.tag, e.idx - e.batch_pos, string_agg(int2send(e.batch_pos), ''::bytea ORDER BY e.batch_pos)
    FROM tollgate.log_tag_single t JOIN tollgate.log_entry e USING (idx)
    GROUP BY t.tag, e.idx - e.batch_pos;
DROP TABLE tollgate.log_tag_single;
ALTER TABLE tollgate.log_tag ADD PRIMARY KEY (tag, first);
GRANT INSERT ON tollgate.log_tag TO tollgate_log_writer;
GRANT SELECT ON tollgate.log_tag TO tollgate_log;
