"""Who may see what, decided by pure functions: no I/O, no clock of its own, no knowledge of HTTP or SQL.

Invariants: every permit names its purpose and its legal basis; whatever is unknown (purpose, action, direction, class,
field, carrier code) denies; a permit never names a class, a field, an OCN or a moment outside what the caller holds.
"""

from proxy.policy.decide import decide
from proxy.policy.model import (
    Action,
    Decision,
    Deny,
    Direction,
    Holding,
    OcnWindow,
    Ownership,
    Permit,
    Purpose,
    Request,
)

__all__ = [
    "Action",
    "Decision",
    "Deny",
    "Direction",
    "Holding",
    "OcnWindow",
    "Ownership",
    "Permit",
    "Purpose",
    "Request",
    "decide",
]
