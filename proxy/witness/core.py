"""What a witness answers (C2SP tlog-witness, ``add-checkpoint``), pure: what it holds and what it is asked, in; out, an
answer.

Invariants:

* For each origin a witness holds one checkpoint, the largest it has cosigned. It cosigns another only if that is proven
  to continue the one it holds. So it never cosigns two trees of which neither continues the other.
* Times of cosignatures never run backwards while sizes grow: if the clock steps back, the last time is used again. A
  cosignature says "the largest I have seen by then", and two that contradicted each other would be worth nothing.
* Who asks is not asked. Nothing but the log's signature counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from keys.checkpoint import Checkpoint
from keys.notes import Cosigner, Note, NoteError, NoteUnsigned, Signature, VerifierKey
from proxy.ledger.addcheckpoint import AddCheckpoint
from proxy.ledger.tree import EMPTY_ROOT, ProofError, verify_consistency

TEXT_MAX = 8192
"""Longest checkpoint text that is cosigned, characters: with its signatures it has to fit a note."""

Logs = Mapping[str, tuple[VerifierKey, ...]]
"""The logs that are witnessed: origin → keys that may sign for it."""


class Status(IntEnum):
    """The answer table."""

    OK = 200
    MALFORMED = 400
    UNSIGNED = 403
    UNKNOWN_LOG = 404
    CONFLICT = 409
    UNPROVEN = 422


class Evidence(StrEnum):
    """Why a question is worth keeping."""

    FORKED = "forked"
    """The log signed two roots of one size: proof by itself, whoever asks."""
    UNPROVEN = "unproven"
    """The log signed something that was not shown to continue what is held. It may be no more than a wrong proof, which
    anybody can put beside a good checkpoint."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a witness holds of an origin: the largest checkpoint it cosigned, and when."""

    size: int
    root: bytes
    time: int


NOTHING = Held(0, EMPTY_ROOT, 0)
"""Of an origin that was never cosigned: the empty tree, which every tree continues."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request that is well-formed and signed by the log it speaks of."""

    request: AddCheckpoint
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Refused:
    """No cosignature.

    ``held`` is the size to be told with a conflict. ``evidence`` says that the log signed something that this witness
    cannot reconcile with what it signed before, and how.
    """

    status: Status
    says: str
    held: int | None = None
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """To be held from now on, before the signature is given to anybody."""

    held: Held
    signature: Signature
    note: Note
    """The checkpoint with the log's signatures and this witness's own."""


def read(body: bytes, logs: Logs) -> Question | Refused:
    """Decide what can be decided without looking at what is held: nothing a stranger sends gets further."""
    try:
        request = AddCheckpoint.parse(body)
        checkpoint = Checkpoint.parse(request.note.text)
    except NoteError as error:
        return Refused(Status.MALFORMED, str(error))
    if len(request.note.text) > TEXT_MAX:
        return Refused(Status.MALFORMED, "the checkpoint is too long")
    keys = logs.get(checkpoint.origin)
    if keys is None:
        return Refused(Status.UNKNOWN_LOG, "this log is not witnessed here")
    try:
        request.note.verify(keys)
    except NoteUnsigned as error:
        return Refused(Status.UNSIGNED, str(error))
    if request.old_size > checkpoint.size:
        return Refused(Status.MALFORMED, "the old size is larger than the checkpoint's")
    return Question(request, checkpoint)


def decide(question: Question, held: Held, cosigner: Cosigner, logs: Logs, now: int) -> Accepted | Refused:
    """Answer a signed question.

    Args:
        question: from `read` with the same ``logs``.
        held: what is held of the question's origin; nobody may change it before the answer is.
        cosigner: the witness's key.
        logs: whose signatures are kept with the note.
        now: the clock, seconds since 1970.
    """
    request, checkpoint = question.request, question.checkpoint
    # Two roots for one size are worth keeping whatever else is wrong with the question.
    if checkpoint.size == held.size and checkpoint.root != held.root:
        return Refused(Status.CONFLICT, "another root is held here for this size", held.size, Evidence.FORKED)
    if request.old_size != held.size:
        return Refused(Status.CONFLICT, "the old size is not the one held here", held.size)
    try:
        verify_consistency(held.size, checkpoint.size, request.proof, held.root, checkpoint.root)
    except ProofError as error:
        # Of what is held itself, or where nothing is, only the proof can be wrong: the log did nothing.
        harmless = held.size == 0 or (checkpoint.size, checkpoint.root) == (held.size, held.root)
        return Refused(Status.UNPROVEN, str(error), evidence=None if harmless else Evidence.UNPROVEN)
    time = max(now, held.time)
    signature = cosigner.cosign(request.note.text, time)
    # Strangers' lines are not kept: a note that is held is as long as its trusted signatures.
    own = tuple(found.signature for found in request.note.verify(logs[checkpoint.origin]))
    note = Note(request.note.text, (*own, signature))
    return Accepted(Held(checkpoint.size, checkpoint.root, time), signature, note)
