"""The staff registry's statements (role OPERATOR; the look-ups also CASES and PRIVACY)."""

from __future__ import annotations

ADD = """
INSERT INTO tollgate.staff (staff_id, issuer, subject, name, title, hired_on, change_id)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""

GIVE_ROLE = "INSERT INTO tollgate.staff_role (staff_id, role, change_id) VALUES ($1, $2, $3)"

END_ROLE = """
UPDATE tollgate.staff_role SET ended_at = now(), ended_by = $3
WHERE staff_id = $1 AND role = $2 AND ended_at IS NULL RETURNING given_at
"""

SUSPEND = "INSERT INTO tollgate.staff_suspension (staff_id, suspended_by) VALUES ($1, $2)"

LIFT = """
UPDATE tollgate.staff_suspension SET lifted_at = now(), change_id = $2
WHERE staff_id = $1 AND lifted_at IS NULL RETURNING suspended_at
"""

TRAIN = """
INSERT INTO tollgate.staff_training (staff_id, completed_on, course, recorded_by) VALUES ($1, $2, $3, $4)
"""

ADD_KEY = """
INSERT INTO tollgate.staff_key (staff_id, kid, alg, jwk, thumbprint, change_id) VALUES ($1, $2, $3, $4::jsonb, $5, $6)
"""

END_KEY = """
UPDATE tollgate.staff_key SET ended_at = now() WHERE staff_id = $1 AND kid = $2 AND ended_at IS NULL
RETURNING thumbprint
"""

KEYS = """
SELECT staff_id, kid, alg, jwk::text AS jwk, thumbprint, added_at, ended_at FROM tollgate.staff_key
WHERE $1::text IS NULL OR staff_id = $1 ORDER BY staff_id, added_at, kid
"""

# One person, or all ($1 null), as they stand now.
STAFF = """
SELECT s.staff_id, s.issuer, s.subject, s.name, s.title, s.hired_on, (now() AT TIME ZONE 'UTC')::date AS today,
       ARRAY(SELECT r.role FROM tollgate.staff_role r
             WHERE r.staff_id = s.staff_id AND r.ended_at IS NULL ORDER BY r.role) AS roles,
       (SELECT x.suspended_at FROM tollgate.staff_suspension x
        WHERE x.staff_id = s.staff_id AND x.lifted_at IS NULL) AS suspended_at,
       (SELECT max(t.completed_on) FROM tollgate.staff_training t WHERE t.staff_id = s.staff_id) AS trained_on
FROM tollgate.staff s WHERE $1::text IS NULL OR s.staff_id = $1 ORDER BY s.staff_id
"""

# What stands on certificates and letters, for roles that may not see who somebody is at the provider.
NAMES = "SELECT staff_id, name, title FROM tollgate.staff WHERE staff_id = ANY ($1::text[])"
