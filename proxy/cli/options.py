"""Values that several commands' options take: moments, and the keys that notes verify with."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from keys.notes import ED25519, NoteError, VerifierKey


def utc_moment(_ctx: click.Context, _param: click.Parameter, text: str | None) -> datetime | None:
    """Take a day or a time of the log (a click callback); without an offset it is UTC, as every time in the log."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter("a day or a time as 2026-11-05 or 2026-11-05T06:07:08Z (UTC)") from None


def verifier_key(text: str, kind: int, option: str) -> VerifierKey:
    """Return the verifier key that ``option`` was given.

    Args:
        text: ``name+hash+key`` (C2SP signed-note).
        kind: what it has to be: `keys.notes.ED25519`, a log's, or `keys.notes.COSIGNATURE`, a witness's.

    Raises:
        click.UsageError: naming the option.
    """
    try:
        key = VerifierKey.parse(text.strip())
    except NoteError as error:
        raise click.UsageError(f"{option}: {error}") from error
    if key.kind != kind:
        raise click.UsageError(f"{option}: this is the key of a {'witness' if kind == ED25519 else 'log'}")
    return key
