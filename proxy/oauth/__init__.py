"""The authorization server, and the guards of the API: see deploy/docs/oauth.md and staff.md.

Trust: whoever holds the keyring's ``token`` signing key can write tokens. Role OAUTH reads clients and cannot add,
enable or change one; it can spend identifiers and revoke tokens, and take neither back.
"""

from proxy.oauth.errors import REASONS, AuthError
from proxy.oauth.guard import Guard
from proxy.oauth.http import Guards, setup
from proxy.oauth.staffguard import StaffGuard
from proxy.oauth.tokens import Grant

__all__ = ["REASONS", "AuthError", "Grant", "Guard", "Guards", "StaffGuard", "setup"]
