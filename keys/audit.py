"""Does the keyring (or a backup of it) open everything that is sealed? The check behind `tollgate keys verify`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import asyncpg

from keys.datakeys import ALGORITHM, open_envelope
from keys.errors import KeyringError, KeyUnavailable, SealError
from keys.provider import Period
from keys.ring import Ring


class State(StrEnum):
    """What became of one period."""

    OPENS = "opens"
    DESTROYED = "destroyed"
    """On purpose; on record."""
    MISSING = "missing"
    """The keyring has no key for it, or another one: its records open for nobody."""
    BROKEN = "broken"
    """The wrapped key was altered, in the database or in the keyring."""
    RETURNED = "returned"
    """Destroyed, and back: an older keyring was restored. It must be destroyed again."""

    @property
    def good(self) -> bool:
        """Whether nobody need do anything."""
        return self in (State.OPENS, State.DESTROYED)


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One period of the database, or of the keyring."""

    period: Period
    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A row of tollgate.data_key."""

    period: Period
    key_id: int
    algorithm: str
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """What the database holds of keys."""

    keys: Sequence[StoredKey]
    destroyed: frozenset[Period]


async def stored(conn: asyncpg.Connection) -> Stored:
    """Read every wrapped data key and every record of destruction."""
    keys = await conn.fetch("SELECT key_class, month, key_id, alg, wrapped FROM tollgate.data_key ORDER BY 1, 2")
    gone = await conn.fetch("SELECT key_class, month FROM tollgate.data_key_destroyed")
    return Stored(
        [StoredKey(Period(r["key_class"], r["month"]), r["key_id"], r["alg"], bytes(r["wrapped"])) for r in keys],
        frozenset(Period(r["key_class"], r["month"]) for r in gone),
    )


def examine(ring: Ring, found: Stored, destroyed_elsewhere: Collection[Period] = ()) -> list[Finding]:
    """Return a finding for each period of the database and each that came back, in order.

    Args:
        ring: the keyring, or the one in a backup.
        found: what the database holds.
        destroyed_elsewhere: what another keyring has on record as destroyed (the live one, where ``ring`` is a
            backup's).
    """
    gone = found.destroyed | frozenset(destroyed_elsewhere)
    findings = {p: Finding(p, State.RETURNED, "destroyed, yet the keyring has its key") for p in gone & ring.live}
    for key in found.keys:
        if key.period not in findings:
            findings[key.period] = _examine_one(ring, key, gone)
    return [findings[p] for p in sorted(findings)]


async def audit(conn: asyncpg.Connection, ring: Ring, destroyed_elsewhere: Collection[Period] = ()) -> list[Finding]:
    """Hold the database against ``ring``; see `examine`."""
    found = await stored(conn)
    return await asyncio.to_thread(examine, ring, found, destroyed_elsewhere)


def _examine_one(ring: Ring, key: StoredKey, gone: frozenset[Period]) -> Finding:
    if key.period in gone or key.period in ring.destroyed:
        return Finding(key.period, State.DESTROYED)
    if key.algorithm != ALGORITHM:
        return Finding(key.period, State.BROKEN, "an algorithm that this version does not know")
    try:
        open_envelope(key.period, key.key_id, ring.unwrap(key.period, key.wrapped))
    except (SealError, KeyringError) as error:
        return Finding(key.period, State.BROKEN, str(error))
    except KeyUnavailable as error:
        return Finding(key.period, State.MISSING, str(error))
    return Finding(key.period, State.OPENS)
