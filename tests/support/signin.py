"""Members of staff at a Machine's commands: each has a session of their own, signed in at a provider's process."""

from __future__ import annotations

import asyncio

from proxy.staff.model import StaffRole
from tests.support.machine import Machine
from tests.support.oidc import Mock


def act_as_staff(machine: Machine, staff_id: str) -> None:
    """Give the staff commands as this person from now on."""
    machine.environment["TOLLGATE_SESSION"] = str(machine.folder / "sessions" / staff_id)


def sign_in(machine: Machine, provider: Mock, staff_id: str, *roles: StaffRole, subject: str = "") -> str:
    """Sign somebody in, in the provider's groups of ``roles``, and act as them; return what they are told."""
    act_as_staff(machine, staff_id)
    issuer = ("--issuer", machine.issuer, "--ca", str(machine.home / "tls" / "ca.pem"))
    nonce = machine.tollgate("login", *issuer, "--nonce").stdout.strip()

    async def agree() -> str:
        who = subject or subject_of(staff_id)
        await provider.put(who, *roles)
        return await provider.id_token(who, nonce)

    return machine.tollgate("login", *issuer, "--assertion", "-", stdin=asyncio.run(agree())).stderr


def subject_of(staff_id: str) -> str:
    """What the provider calls somebody."""
    return f"{staff_id}@carrier.example"


def bootstrap(machine: Machine, *staff_ids: str) -> None:
    """Name the first operators, by the command."""
    for staff_id in staff_ids:
        name = staff_id.replace("-", " ").title()
        machine.tollgate(
            "staff",
            "bootstrap",
            staff_id,
            "--subject",
            subject_of(staff_id),
            "--name",
            name,
            "--course",
            "CPNI at hire",
        )
