"""A witness at work: one question at a time, held on disk before it is answered. Blocking; safe among threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from keys.notes import Note
from proxy import logs
from proxy.witness import core
from proxy.witness.core import Accepted, Logs, Refused
from proxy.witness.state import State

_LOG = logs.get("witness")


class Witness:
    """Answers questions about ``logs``.

    Args:
        state: the directory, entered.
        known: the logs that are witnessed.
        now: the clock, seconds since 1970.
    """

    def __init__(self, state: State, known: Logs, now: Callable[[], float] = time.time) -> None:
        self._state = state
        self._known = known
        self._now = now
        # Looking at what is held, deciding and holding the new are one step: with two at once, the smaller of two
        # checkpoints could be held last, and the witness would have forgotten what it signed (tlog-witness, "race").
        self._one = threading.Lock()

    def add_checkpoint(self, body: bytes) -> Accepted | Refused:
        """Answer a request.

        Raises:
            StateError: what is held cannot be read: nothing is cosigned for that log.
            OSError: what is to be held cannot be written: nothing was cosigned.
        """
        question = core.read(body, self._known)
        if isinstance(question, Refused):
            return question
        origin, size = question.checkpoint.origin, question.checkpoint.size
        with self._one:
            held = self._state.held(origin)
            now = int(self._now())
            answer = core.decide(question, held, self._state.cosigner, self._known, now)
            if isinstance(answer, Accepted):
                if now < held.time:
                    logs.event(_LOG, logging.WARNING, "witness.clock_behind", seconds=held.time - now)
                self._state.hold(origin, answer)
            elif answer.evidence is not None:
                # The origin is one that this witness was configured with, so it is safe to name.
                logs.event(
                    _LOG,
                    logging.ERROR,
                    "witness.contradiction",
                    origin=origin,
                    status=int(answer.status),
                    size=size,
                    held=held.size,
                )
                self._state.keep_evidence(answer.evidence, question, body)
        return answer

    def latest(self, origin: str) -> Note | None:
        """Return the note last cosigned for ``origin``, with the log's signature and this witness's; None if none was.

        Raises:
            StateError: it cannot be read.
        """
        if origin not in self._known:
            return None
        with self._one:
            return self._state.note(origin)

    def check(self) -> None:
        """Read what is held of every log, so that a damaged directory shows at the start.

        Raises:
            StateError: names the file.
        """
        for origin in self._known:
            self._state.held(origin)
