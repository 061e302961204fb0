"""What fsck says of origins: each is held against the entry that opened it, whatever becomes of the others' entries."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.checkpoint import Checkpoint
from keys.notes import Signer, sign
from proxy.ledger.fsck.findings import Findings
from proxy.ledger.fsck.model import Report, StoredOrigin
from proxy.ledger.fsck.signed import SignedCheck, Trusted

SIGNERS = {name: Signer(name, Ed25519PrivateKey.generate()) for name in ("a/log", "a/log/2", "a/log/lost")}


def note(origin: str, size: int) -> bytes:
    return str(sign(Checkpoint(origin, size, bytes(32)).text, SIGNERS[origin])).encode()


ORIGINS = (
    StoredOrigin(1, "a/log", 0, None),
    StoredOrigin(2, "a/log/2", 6, note("a/log", 12)),
    StoredOrigin(3, "a/log/3", 9, note("a/log/2", 10)),
)


def opens(origin: StoredOrigin) -> dict[str, Any]:
    request: dict[str, Any] = {"origin": origin.origin, "epoch": origin.epoch}
    if origin.previous is not None:
        request |= {"first_size": origin.first_size, "previous": origin.previous.decode()}
    return request


def found(entries: list[tuple[int, dict[str, Any] | None]], origins: tuple[StoredOrigin, ...] = ORIGINS) -> list[str]:
    findings = Findings()
    trusted = Trusted(keys=[signer.key for signer in SIGNERS.values()])
    SignedCheck(origins, trusted, Report(), findings).check_entries(entries)
    return sorted(finding.what for finding in findings.ordered())


FIRST, SECOND, THIRD = ((each.first_size, opens(each)) for each in ORIGINS)


def test_origins_as_their_entries_say() -> None:
    assert found([FIRST, SECOND, THIRD]) == []
    assert found([(0, None), (6, None), (9, None)]) == [], "nothing was opened"


def test_an_origin_without_entry_is_found_though_another_cannot_be_read() -> None:
    missing = ["no entry opens origin 3 as it stands"]
    assert found([FIRST, SECOND]) == missing
    assert found([(0, None), SECOND]) == missing
    assert found([(0, None), (6, None)]) == missing
    assert found([(0, None), (6, None), (8, None)]) == missing, "an entry elsewhere opens nothing"
    assert found([FIRST, (6, None)]) == missing
    assert found([SECOND, THIRD]) == ["no entry opens origin 1 as it stands"]
    assert found([(6, None), (9, None)]) == ["no entry opens origin 1 as it stands"], "each opens one"


def test_an_origin_may_answer_for_one_that_was_lost() -> None:
    lost = StoredOrigin(2, "a/log/2", 6, note("a/log/lost", 12))
    assert found([FIRST, (6, opens(lost))], (ORIGINS[0], lost)) == []
    stranger = Signer("a/log/lost", Ed25519PrivateKey.generate())
    forged = str(sign(Checkpoint("a/log/lost", 12, bytes(32)).text, stranger)).encode()
    other = StoredOrigin(2, "a/log/2", 6, forged)
    (what,) = found([FIRST, (6, opens(other))], (ORIGINS[0], other))
    assert what.startswith("origin 2: ")
