"""Collecting findings: bounded, each with the first checkpoint that holds against it."""

from __future__ import annotations

from proxy.ledger.fsck.model import FINDINGS_MAX, Finding, Since, Where


class Findings:
    """What was found so far. FINDINGS_MAX are kept, those found first; the rest are counted.

    Of each `Where` the one of the smallest index is kept besides: a thousand that mean little hide none that counts.
    """

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self._least: dict[Where, Finding] = {}
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
        before = self._least.get(finding.where)
        least = before is None or _place(finding) < _place(before)
        if least:
            self._least[finding.where] = finding
        full = len(self.kept) >= FINDINGS_MAX
        if not full:
            self.kept.append(finding)
        if full and not least:
            return
        if full and before is not None:
            self._open = [each for each in self._open if each is not before or any(each is k for k in self.kept)]
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
        there = {id(finding) for finding in self.kept}
        return sorted([*self.kept, *(f for f in self._least.values() if id(f) not in there)], key=_place)


def _place(finding: Finding) -> tuple[bool, int]:
    return (finding.index is None, finding.index or 0)
