"""Receipts, offline: what a good one proves, and that nothing in it can be otherwise."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.encoding import b64url_encode
from keys.notes import Cosigner, Signer
from proxy.client.log import compare
from proxy.client.transfer import Part
from proxy.ledger import receipts
from proxy.ledger.model import Kind, new_id
from proxy.ledger.receipts import ReceiptError, TlogProof
from tests.support.receipts import ORIGIN, PaperLog, access, dumped


@pytest.fixture
def log() -> PaperLog:
    made = PaperLog()
    for _ in range(20):
        made.add(*access("someone-else")[1])
    return made


def test_a_receipt_shows_what_was_recorded_and_keeps_back_what_is_not_the_clients(log: PaperLog) -> None:
    access_id, entries = access(rows=3)
    indexes = log.add(*entries)
    log.add(*access("later")[1])
    made = log.receipt(access_id, indexes)
    assert all(set(entry["openings"]) <= {"actor", "request", "outcome"} for entry in made["entries"])
    assert "runs" not in json.dumps(made["entries"])
    shown = receipts.verify(dumped(made), [log.signer.key])
    assert shown.access_id == access_id
    assert (shown.checkpoint.origin, shown.checkpoint.size) == (ORIGIN, 44)
    assert [(e.index, e.kind) for e in shown.entries] == [(40, Kind.ACCESS_INTENT), (41, Kind.ACCESS_OUTCOME)]
    intent, outcome = shown.entries
    assert intent.request == {"purpose": "billing"}
    assert (intent.outcome, intent.records) == ({}, None)  # never had one; has some, not opened
    assert outcome.outcome is not None
    assert outcome.outcome["rows"] == 3
    assert shown.witnesses == ()


def test_an_erased_opening_is_not_opened_and_still_proven(log: PaperLog) -> None:
    access_id, entries = access()
    made = log.receipt(access_id, log.add(*entries))
    del made["entries"][0]["openings"]["request"]
    assert receipts.verify(dumped(made), [log.signer.key]).entries[0].request is None


def _at(path: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    """Change what stands at ``path`` of a receipt."""
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))

    def apply(receipt: dict[str, Any]) -> None:
        node: Any = receipt
        for step in steps:
            node = node[step]
        node[last] = change(node[last])

    return apply


def _flip(text: str) -> str:
    return text.replace('"salt":"', '"salt":"_', 1)


def _swap(receipt: dict[str, Any]) -> None:
    receipt["entries"].reverse()


def _twice(receipt: dict[str, Any]) -> None:
    receipt["entries"].insert(0, receipt["entries"][0])


def _move_opening(receipt: dict[str, Any]) -> None:
    openings = receipt["entries"][0]["openings"]
    openings["actor"], openings["request"] = openings["request"], openings["actor"]


def _other_entrys_opening(receipt: dict[str, Any]) -> None:
    # The same client, the same words: only the salt is another.
    first, second = receipt["entries"]
    first["openings"]["actor"] = second["openings"]["actor"]


def _a_part_it_does_not_have(receipt: dict[str, Any]) -> None:
    receipt["entries"][0]["openings"]["outcome"] = receipt["entries"][1]["openings"]["outcome"]


def _lines(number: int, to: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        lines = text.split("\n")
        lines[number] = to
        return "\n".join(lines)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_at("v", lambda _: 2), "another version"),
        (_at("access_id", lambda _: str(new_id())), "another access"),
        (_at("access_id", str.upper), "no UUID"),
        (_at("entries", lambda _: []), "without entries"),
        (_at("entries", lambda _: {}), "no receipt"),
        (_at("entries.0", lambda _: "x"), "no receipt"),
        (_at("entries.0.header", lambda h: h.replace("2026-11-05", "2026-11-06")), "not proven"),
        (_at("entries.0.header", lambda h: h.replace('"at"', ' "at"')), "canonical"),
        (_at("entries.0.header", lambda _: "\ud800"), "no receipt"),
        (_at("entries.0.header", lambda _: 7), "no receipt"),
        (_at("entries.0.openings.actor", _flip), "not what the header commits to"),
        (_at("entries.1.openings.outcome", lambda o: o.replace('"rows":7', '"rows":8')), "not what the header commits"),
        (_at("entries.0.openings", lambda o: {**o, "diary": "x"}), "does not have"),
        (_a_part_it_does_not_have, "does not have"),
        (_move_opening, "not what the header commits to"),
        (_other_entrys_opening, "not what the header commits to"),
        (_swap, "order"),
        (_twice, "twice"),
        (_at("entries.0.proof", lambda p: "x" + p), "no c2sp.org/tlog-proof"),
        (_at("entries.0.proof", _lines(1, "index 7")), "not proven"),
        (_at("entries.0.proof", _lines(1, "index 040")), "cannot be read"),
        (_at("entries.0.proof", _lines(1, "index -1")), "cannot be read"),
        (_at("entries.0.proof", _lines(2, "A" * 43 + "=")), "not proven"),
        (_at("entries.0.proof", _lines(2, "!")), "cannot be read"),
        (_at("entries.0.proof", lambda p: p.replace("index 40\n", f"index 40\n{'A' * 43}=\n")), "not proven"),
        (_at("entries.0.proof", lambda p: p.replace(f"{ORIGIN}\n42", f"{ORIGIN}\n43")), "does not verify"),
        (_at("entries.0.proof", lambda p: p.partition("\n\n")[0]), "no c2sp.org/tlog-proof"),
        (_at("entries.0.proof", lambda p: p.partition("\n\n")[0] + "\n\n"), "does not verify"),
    ],
)  # fmt: skip
def test_nothing_in_a_receipt_can_be_otherwise(
    log: PaperLog, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    access_id, entries = access()
    made = log.receipt(access_id, log.add(*entries))
    receipts.verify(dumped(made), [log.signer.key])
    changed = copy.deepcopy(made)
    change(changed)
    assert changed != made
    with pytest.raises(ReceiptError, match=says):
        receipts.verify(dumped(changed), [log.signer.key])


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{", b"\xff", b'{"v":1}', b"[" * 100_000, b'{"v":1,"entries":[]}']
)
def test_what_is_no_receipt_is_refused(log: PaperLog, data: bytes) -> None:
    with pytest.raises(ReceiptError):
        receipts.verify(data, [log.signer.key])


def test_intent_and_outcome_stand_under_one_checkpoint(log: PaperLog) -> None:
    """A log that signs two trees of one size, each with one of the entries; and two good checkpoints of one tree."""
    access_id, entries = access()
    stranger, other = access("someone-else")[1]
    fork = PaperLog(log.signer, log.witness, list(log.headers), list(log.openings))
    log.add(entries[0], other)
    fork.add(stranger, entries[1])
    made = log.receipt(access_id, [40])
    made["entries"] += fork.receipt(access_id, [41])["entries"]
    for entry in made["entries"]:  # each by itself is proven
        receipts.verify(dumped(made | {"entries": [entry]}), [log.signer.key])
    with pytest.raises(ReceiptError, match="one and the same checkpoint"):
        receipts.verify(dumped(made), [log.signer.key])
    access_id, entries = access()
    first, second = log.add(*entries)
    made = log.receipt(access_id, [first], log.note(first + 1))
    made["entries"] += log.receipt(access_id, [second])["entries"]
    with pytest.raises(ReceiptError, match="one and the same checkpoint"):
        receipts.verify(dumped(made), [log.signer.key])


def _received(**change: Any) -> Part:
    return Part(**({"cursor": None, "state": "complete", "rows": 7, "bytes": 100, "sha256": "ab" * 32} | change))


def test_what_the_client_received_is_what_the_log_says(log: PaperLog) -> None:
    access_id, entries = access()
    receipt = receipts.verify(dumped(log.receipt(access_id, log.add(*entries))), [log.signer.key])
    compare(receipt, "client-a", _received(access_id=str(access_id)))
    for change in ({"rows": 8}, {"bytes": 99}, {"sha256": "cd" * 32}, {"sha256": ""}):
        with pytest.raises(ReceiptError, match="other rows, bytes or SHA-256"):
            compare(receipt, "client-a", _received(access_id=str(access_id), **change))


@pytest.mark.parametrize("state", ["complete", "cut"])
def test_an_outcome_without_its_sha256_proves_nothing(log: PaperLog, state: str) -> None:
    access_id, (intent, outcome) = access()
    said = {name: value for name, value in outcome.outcome.items() if name != "sha256"}
    without = replace(outcome, outcome=said | {"checkpoints": [{"rows": 7, "bytes": 100}]})
    receipt = receipts.verify(dumped(log.receipt(access_id, log.add(intent, without))), [log.signer.key])
    with pytest.raises(ReceiptError, match="other rows, bytes or SHA-256"):
        compare(receipt, "client-a", _received(access_id=str(access_id), state=state))


@pytest.mark.parametrize("state", [None, "interrupted"])
def test_an_answer_that_ended_whole_has_an_outcome_that_says_so(log: PaperLog, state: str | None) -> None:
    """Progress alone, or an answer that was broken off, will do where the client cut it back to a checkpoint."""
    access_id, (intent, outcome) = access(state=state or "complete")
    if state is None:
        outcome = replace(outcome, kind=Kind.ACCESS_PROGRESS)
    receipt = receipts.verify(dumped(log.receipt(access_id, log.add(intent, outcome))), [log.signer.key])
    compare(receipt, "client-a", _received(access_id=str(access_id), state="cut"))
    with pytest.raises(ReceiptError, match="ended whole"):
        compare(receipt, "client-a", _received(access_id=str(access_id)))


def test_the_key_in_the_receipt_counts_for_nothing(log: PaperLog) -> None:
    access_id, entries = access()
    made = log.receipt(access_id, log.add(*entries))
    for name in (ORIGIN, "other.example/log"):
        other = Signer(name, Ed25519PrivateKey.generate())
        with pytest.raises(ReceiptError, match="does not verify"):
            receipts.verify(dumped(made), [other.key])
    made["log"]["vkey"] = "nonsense"
    receipts.verify(dumped(made), [log.signer.key])


def test_a_key_of_another_name_signs_for_no_other_origin(log: PaperLog) -> None:
    """The log's key, but under another name: what it signs for our origin is not our log's."""
    access_id, entries = access()
    stranger = PaperLog(signer=log.signer, headers=log.headers, openings=log.openings)
    indexes = stranger.add(*entries)
    text = stranger.note().replace(ORIGIN, "other.example/log", 1)
    stranger.signer = Signer(ORIGIN, Ed25519PrivateKey.generate())
    body = text.partition("\n\n")[0] + "\n"
    note = f"{body}\n{stranger.signer.sign(body)}\n"
    made = log.receipt(access_id, indexes)
    for entry in made["entries"]:
        entry["proof"] = entry["proof"].partition("\n\n")[0] + "\n\n" + note
    with pytest.raises(ReceiptError, match="another log's"):
        receipts.verify(dumped(made), [stranger.signer.key])


def test_witnesses_that_are_asked_for_have_to_have_cosigned(log: PaperLog) -> None:
    access_id, entries = access()
    indexes = log.add(*entries)
    plain = dumped(log.receipt(access_id, indexes))
    cosigned = dumped(log.receipt(access_id, indexes, log.note(cosigned=True)))
    away = Cosigner("witness.example/w2", Ed25519PrivateKey.generate())
    impostor = Cosigner(log.witness.key.name, Ed25519PrivateKey.generate())
    key, witness = [log.signer.key], log.witness.key
    assert receipts.verify(cosigned, key, [witness]).witnesses == (witness.name,)
    assert receipts.verify(cosigned, key, [witness, away.key], quorum=1).witnesses == (witness.name,)
    for data, wanted in ((plain, [witness]), (cosigned, [witness, away.key]), (cosigned, [impostor.key])):
        with pytest.raises(ReceiptError, match="witnesses asked for"):
            receipts.verify(data, key, wanted)


def test_a_tlog_proof_reads_back_and_extra_data_is_passed_over() -> None:
    proof = TlogProof(73894, (bytes(32), b"\x01" * 32), "example.com/fancylog\n109482\n…\n\n— x y\n")
    assert TlogProof.parse(str(proof)) == proof
    assert TlogProof.parse(str(proof).replace("\nindex", "\nextra YWdl\nindex")) == proof
    # "zero or more non-empty lines": the only entry of a log has no hashes at all.
    assert TlogProof.parse(str(TlogProof(0, (), "a\n\nb\n"))) == TlogProof(0, (), "a\n\nb\n")


def test_a_commitment_without_salt_would_be_guessable_so_openings_carry_theirs(log: PaperLog) -> None:
    access_id, entries = access()
    made = log.receipt(access_id, log.add(*entries))
    salts = [json.loads(text)["salt"] for entry in made["entries"] for text in entry["openings"].values()]
    assert len(set(salts)) == len(salts) == 4
    assert all(len(salt) == len(b64url_encode(bytes(16))) for salt in salts)
