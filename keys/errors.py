"""What can go wrong with keys. Messages name periods, files and what to do; never a key or a sealed value."""

from __future__ import annotations


class KeysError(Exception):
    """The root of every error this package raises on purpose."""


class KeyUnavailable(KeysError):  # noqa: N818 - it says what is so, and others catch it by this name
    """A key cannot be had: absent, destroyed, of a class this process may not open, or the provider is unreachable."""


class KeyringError(KeyUnavailable):
    """The keyring itself is unusable: missing, of loose modes, damaged, or of a newer version. Says what to do."""


class SealError(KeysError):
    """A sealed value does not open: cut, altered, moved, of another key or of another version."""


class BackupError(KeysError):
    """A keyring backup cannot be written or opened (wrong passphrase, damage, an unknown version)."""
