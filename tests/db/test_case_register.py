"""The register of cases as PostgreSQL holds it: the same transitions as the gateway's, and two people."""

from __future__ import annotations

import asyncpg

from proxy.legal.states import CAPACITY, TRANSITIONS, Action


async def test_the_transitions_are_the_gateways(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch("SELECT action, from_state, to_state FROM tollgate.case_transition")
    held = {(r["action"], r["from_state"], r["to_state"]) for r in rows}
    assert held == {(t.action.value, t.before.value if t.before else "", t.after.value) for t in TRANSITIONS}
    assert set(CAPACITY) == set(Action) == {t.action for t in TRANSITIONS}
