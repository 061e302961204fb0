"""Collecting findings: bounded, each with the first checkpoint that holds against it."""

from __future__ import annotations

from proxy.ledger.fsck.model import FINDINGS_MAX, Finding, Since, Where


class Findings:
    """What was found so far. At most FINDINGS_MAX are kept, the first ones; the rest are counted."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.count = 0
        self._open: list[Finding] = []
        self._recent: int | None = None

    def add(self, where: Where, what: str, index: int | None = None, last: int | None = None) -> None:
        """Note one."""
        self.put(Finding(where, what, index, last))

    def put(self, finding: Finding) -> None:
        """Note one that is made already."""
        self.count += 1
        if finding.index is not None:
            self._recent = finding.index if self._recent is None else min(self._recent, finding.index)
        if len(self.kept) < FINDINGS_MAX:
            self.kept.append(finding)
            if finding.index is not None and finding.where is not Where.ANCHOR:
                self._open.append(finding)

    def first_from(self, index: int) -> int | None:
        """Return the first broken entry found since the last `covered` call, if it is ``index`` or later."""
        return self._recent if self._recent is not None and self._recent >= index else None

    def covered(self, since: Since) -> None:
        """Say that a well-signed checkpoint covers every entry before its size: told in order of size."""
        if self._open:
            for finding in self._open:
                if finding.index is not None and finding.index < since.size:
                    finding.since = since
            self._open = [f for f in self._open if f.since is None]
        self._recent = None

    def ordered(self) -> list[Finding]:
        """Return those kept, by index; those of no entry last."""
        return sorted(self.kept, key=lambda f: (f.index is None, f.index or 0))
