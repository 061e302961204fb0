"""The authorization server's statements (role OAUTH). Every time in them is the database's own."""

from __future__ import annotations

# The live keys of a client; one row without kid where there are none, so that the time always comes back.
KEYS = """
SELECT now() AS now, k.kid, k.jwk::text AS jwk
FROM (VALUES (1)) AS one (x)
LEFT JOIN tollgate.client_key k ON k.client_id = $1 AND k.disabled_at IS NULL
"""

# Everything a request's fate hangs on, in one round trip:
#   who     the client, its carrier, whether both are enabled, the key it proved is live, and it comes from where it may
#   kept    the identifiers used now, each for the first time
#   rate    one request more in this minute; only if every identifier was fresh, so that a replay spends nothing
# Both also for a client that is disabled or elsewhere: its refusals are entries of the log, and shall be bounded too.
# and the agreement in force, what the carrier owns, and whether the token was revoked.
# $1 client, $2 address, $3 thumbprint of the client's key, $4 hashes and $5 expiries of identifiers,
# $6 hash of the token's identifier and $7 its expiry (null: no token), $8 the agreement that it must be (null: any).
# The primary key of used_jti decides a race within a day of expiry; the look-up before it covers the days around.
ADMIT = """
WITH today AS (
    SELECT (now() AT TIME ZONE 'UTC')::date AS day
), who AS (
    SELECT c.client_id, c.carrier_id, c.requests_per_minute,
           (c.disabled_at IS NULL AND r.disabled_at IS NULL AND EXISTS (
                SELECT FROM tollgate.client_key k
                WHERE k.client_id = c.client_id AND k.thumbprint = $3 AND k.disabled_at IS NULL)) AS enabled,
           ($2::inet <<= ANY (c.networks::inet[])) AS inside
    FROM tollgate.client c JOIN tollgate.carrier r ON r.carrier_id = c.carrier_id
    WHERE c.client_id = $1
), kept AS (
    INSERT INTO tollgate.used_jti (expires_day, hash, expires_at)
    SELECT (n.expires_at AT TIME ZONE 'UTC')::date, n.hash, n.expires_at
    FROM unnest($4::bytea[], $5::timestamptz[]) AS n (hash, expires_at), who, today
    WHERE n.expires_at > now() AND n.expires_at < now() + interval '1 hour'
      AND NOT EXISTS (
            SELECT FROM tollgate.used_jti u
            WHERE u.hash = n.hash AND u.expires_day BETWEEN today.day - 1 AND today.day + 1 AND u.expires_at > now())
    ON CONFLICT (expires_day, hash) DO NOTHING
    RETURNING hash
), rate AS (
    INSERT INTO tollgate.client_rate AS r (client_id, minute, used)
    SELECT who.client_id, date_trunc('minute', now()), 1 FROM who
    WHERE (SELECT count(*) FROM kept) = cardinality($4::bytea[])
    ON CONFLICT (client_id) DO UPDATE
        SET used = CASE WHEN r.minute = excluded.minute THEN least(r.used, 2000000) + 1 ELSE 1 END,
            minute = excluded.minute
    RETURNING used
)
SELECT now() AS now, who.client_id, who.carrier_id, who.enabled, who.inside, who.requests_per_minute,
       ARRAY(SELECT hash FROM kept) AS kept,
       (SELECT used FROM rate) AS used,
       EXISTS (
            SELECT FROM tollgate.token_revoked v
            WHERE v.hash = $6 AND v.expires_day = ($7::timestamptz AT TIME ZONE 'UTC')::date) AS revoked,
       a.reference AS agreement, a.in_force_to AS agreement_to,
       o.ocns, o.valid_from, o.valid_to
FROM today
LEFT JOIN who ON true
LEFT JOIN LATERAL (
    SELECT reference, in_force_to FROM tollgate.agreement
    WHERE carrier_id = who.carrier_id AND disabled_at IS NULL AND in_force_from <= today.day
      AND (in_force_to IS NULL OR today.day < in_force_to) AND ($8::text IS NULL OR reference = $8)
    ORDER BY in_force_to DESC NULLS FIRST, reference LIMIT 1
) a ON true
LEFT JOIN LATERAL (
    -- Every period of an OCN that is the carrier's today: it may have been lost and won back.
    SELECT array_agg(p.ocn ORDER BY p.ocn, p.valid_from) AS ocns,
           array_agg(p.valid_from ORDER BY p.ocn, p.valid_from) AS valid_from,
           array_agg(p.valid_to ORDER BY p.ocn, p.valid_from) AS valid_to
    FROM tollgate.carrier_ocn p
    WHERE p.carrier_id = who.carrier_id AND (p.valid_to IS NULL OR p.valid_to > p.valid_from) AND EXISTS (
        SELECT FROM tollgate.carrier_ocn t
        WHERE t.carrier_id = p.carrier_id AND t.ocn = p.ocn
          AND t.valid_from <= today.day AND (t.valid_to IS NULL OR today.day < t.valid_to))
) o ON true
"""

REVOKE = """
INSERT INTO tollgate.token_revoked (expires_day, hash, expires_at)
SELECT ($2::timestamptz AT TIME ZONE 'UTC')::date, $1, $2
WHERE $2::timestamptz > now() AND $2::timestamptz < now() + interval '1 hour'
ON CONFLICT (expires_day, hash) DO NOTHING
"""

# Is what a token stands on still so? Its own expiry is the caller's to judge. Parameters as ADMIT's $1, $3, $6, $7, $8.
LIVE = """
SELECT EXISTS (
    SELECT FROM tollgate.client c
    JOIN tollgate.carrier r ON r.carrier_id = c.carrier_id AND r.disabled_at IS NULL
    JOIN tollgate.client_key k ON k.client_id = c.client_id AND k.thumbprint = $2 AND k.disabled_at IS NULL
    JOIN tollgate.agreement a ON a.carrier_id = c.carrier_id AND a.reference = $5 AND a.disabled_at IS NULL
        AND a.in_force_from <= (now() AT TIME ZONE 'UTC')::date
        AND (a.in_force_to IS NULL OR (now() AT TIME ZONE 'UTC')::date < a.in_force_to)
    WHERE c.client_id = $1 AND c.disabled_at IS NULL AND NOT EXISTS (
        SELECT FROM tollgate.token_revoked v
        WHERE v.hash = $3 AND v.expires_day = ($4::timestamptz AT TIME ZONE 'UTC')::date))
"""

NOW = "SELECT now()"

PARTITIONS = "SELECT tollgate.oauth_partitions()"
