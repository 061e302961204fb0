"""The authorization server's statements about staff (role OAUTH). Every time in them is the database's own."""

from __future__ import annotations

# Everything a staff request's fate hangs on, in one round trip:
#   who   the person, by id ($1: a token of ours) or by the provider's issuer and subject ($2, $3: signing in), with the
#         roles, suspension and last training that are so now
#   kept  the identifiers used now, each for the first time
#   rate  one request more in this minute, counted for the subject, so that also somebody the provider knows and we do
#         not can only have so many refusals entered; only if every identifier was fresh
# and whether the token was revoked. $4 hashes and $5 expiries of identifiers, $6 hash of the token's identifier and $7
# its expiry (null: no token).
ADMIT = """
WITH today AS (
    SELECT (now() AT TIME ZONE 'UTC')::date AS day
), who AS (
    SELECT s.staff_id, s.subject, s.hired_on,
           ARRAY(SELECT r.role FROM tollgate.staff_role r
                 WHERE r.staff_id = s.staff_id AND r.ended_at IS NULL ORDER BY r.role) AS roles,
           EXISTS (SELECT FROM tollgate.staff_suspension x
                   WHERE x.staff_id = s.staff_id AND x.lifted_at IS NULL) AS suspended,
           (SELECT max(t.completed_on) FROM tollgate.staff_training t
            WHERE t.staff_id = s.staff_id AND t.completed_on <= today.day) AS trained_on
    FROM tollgate.staff s, today
    WHERE s.staff_id = $1::text OR ($1::text IS NULL AND s.issuer = $2::text AND s.subject = $3::text)
), kept AS (
    INSERT INTO tollgate.used_jti (expires_day, hash, expires_at)
    SELECT (n.expires_at AT TIME ZONE 'UTC')::date, n.hash, n.expires_at
    FROM unnest($4::bytea[], $5::timestamptz[]) AS n (hash, expires_at), today
    WHERE n.expires_at > now() AND n.expires_at < now() + interval '1 hour'
      AND NOT EXISTS (
            SELECT FROM tollgate.used_jti u
            WHERE u.hash = n.hash AND u.expires_day BETWEEN today.day - 1 AND today.day + 1 AND u.expires_at > now())
    ON CONFLICT (expires_day, hash) DO NOTHING
    RETURNING hash
), rate AS (
    INSERT INTO tollgate.staff_rate AS r (who, minute, used)
    SELECT sha256(convert_to(p.subject, 'UTF8')), date_trunc('minute', now()), 1
    FROM (SELECT coalesce((SELECT who.subject FROM who), $3::text) AS subject) p
    WHERE p.subject IS NOT NULL AND (SELECT count(*) FROM kept) = cardinality($4::bytea[])
    ON CONFLICT (who) DO UPDATE
        SET used = CASE WHEN r.minute = excluded.minute THEN least(r.used, 2000000) + 1 ELSE 1 END,
            minute = excluded.minute
    RETURNING used
)
SELECT now() AS now, today.day AS today, who.staff_id, who.hired_on, who.roles, who.suspended, who.trained_on,
       ARRAY(SELECT hash FROM kept) AS kept,
       (SELECT used FROM rate) AS used,
       EXISTS (
            SELECT FROM tollgate.token_revoked v
            WHERE v.hash = $6 AND v.expires_day = ($7::timestamptz AT TIME ZONE 'UTC')::date) AS revoked
FROM today LEFT JOIN who ON true
"""

# Is what a grant stands on still so? $1 the person, $2 roles of which one is enough, $3 and $4 the token.
LIVE = """
SELECT EXISTS (SELECT FROM unnest($2::text[]) AS r (role) WHERE tollgate.staff_active($1, r.role))
   AND NOT EXISTS (
        SELECT FROM tollgate.token_revoked v
        WHERE v.hash = $3 AND v.expires_day = ($4::timestamptz AT TIME ZONE 'UTC')::date)
"""
