"""Entries that were written together stand together, each at its place in the group, none left out. Pure."""

from __future__ import annotations

from uuid import UUID


class Groups:
    """Takes the entries of a log in order, and the rows of openings as they are fetched."""

    def __init__(self) -> None:
        self.openings = 0
        self.last = -1
        self._batch: UUID | None = None
        self._place = -1
        self._count: int | None = None
        self._recent: set[tuple[str, int, UUID]] = set()
        self._before: set[tuple[str, int, UUID]] = set()

    def saw(self, blob: tuple[str, int, UUID]) -> None:
        """Count a row of openings; a group on two pages is fetched twice."""
        if blob not in self._recent and blob not in self._before:
            self.openings += 1
            self._recent.add(blob)
            if len(self._recent) > 8192:
                self._before, self._recent = self._recent, set()

    def next(self, index: int, batch: UUID, place: int, count: int | None) -> str | None:
        """Take the next entry; return what is wrong with its place."""
        fault = None
        if batch == self._batch:
            if place != self._place + 1:
                fault = f"it is at place {place} of its group, after place {self._place}"
        else:
            fault = self.left()
            if fault is None and place != 0:
                fault = f"it is at place {place} of its group, and nothing of the group stands before it"
            self._count = count
        if count is not None and not 0 <= place < count:
            fault = "its group was sealed without it"
        self._batch, self._place, self.last = batch, place, index
        return fault

    def left(self) -> str | None:
        """Return what is wrong with the end of the last group."""
        if self._count is None or self._place + 1 == self._count:
            return None
        if self._count < 0:
            return "the openings of the group before it are not of one number"
        return f"the group before it was sealed with {self._count} entries, and ends after {self._place + 1}"
