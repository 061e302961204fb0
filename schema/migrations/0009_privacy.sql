-- The privacy officer's role: what was disclosed is counted over every carrier's records, whoever's they are. It reads
-- batches and changes nothing; it has no leg's ciphertext, no location, no subscriber class, no staging, no search tag.
-- As for the peers' role, the months of the permit are set for each transaction, and compared as integers: unset, no row.
GRANT USAGE ON SCHEMA tollgate TO tollgate_privacy;
GRANT SELECT (month, batch_id, pair_id, ingress_ocn, egress_ocn, rows, first_record_id, last_record_id, first_start,
    last_start, format, classes, timing, parties) ON tollgate.batch TO tollgate_privacy;

-- An unmapped call was disclosed to nobody (tollgate_billing's policy): there is nothing of it to count.
CREATE POLICY privacy ON tollgate.batch FOR SELECT TO tollgate_privacy USING (
    ingress_ocn <> -2 AND egress_ocn <> -2
    AND month >= tollgate.first_month() AND month <= tollgate.last_month());
