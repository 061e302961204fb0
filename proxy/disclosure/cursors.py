"""Sealed values handed to a client and taken back: cursors, and the marks of ``Complete-To``.

Each is AES-256-GCM under the provider's secret ``cursor`` (keys/sealing.py), bound to its kind and its client, in
canonical base64url. All numbers are written in full width, so that not even the length tells how many records we hold.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from keys.encoding import EncodingError, b64url_decode, b64url_encode
from keys.errors import SealError
from keys.provider import DataKey, Period
from keys.sealing import open_sealed, seal
from proxy.disclosure.plan import Place, place_of

SECRET = "cursor"  # noqa: S105 - the name of a secret, not one
_WIDTH = 20


class CursorError(Exception):
    """It was not made by us for this client: altered, another client's, or of another kind."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where an answer goes on, with the question it answers. Times are microseconds UTC."""

    start_us: int
    end_us: int
    direction: str
    number: str | None
    after_id: int
    as_of: int
    digest: str
    """Of the permit under which the answer began (plan.digest)."""
    place: Place | None
    """None: from the beginning."""
    rows: int
    """Rows sent before it."""


class Sealer:
    """Seals and opens for one gateway; every gateway with the same provider opens what another sealed."""

    def __init__(self, secret: bytes) -> None:
        self._key = DataKey(1, Period("cursor", 200_001), secret)

    def cursor(self, client_id: str, cursor: Cursor) -> str:
        """Return ``cursor`` sealed for ``client_id``."""
        value = {
            "w": [_wide(cursor.start_us), _wide(cursor.end_us), cursor.direction],
            "n": cursor.number,
            "s": [_wide(cursor.after_id), _wide(cursor.as_of)],
            "d": cursor.digest,
            "p": cursor.place and [_wide(int(v)) for v in cursor.place.as_list()],
            "r": _wide(cursor.rows),
        }
        return self._seal("cursor", client_id, value)

    def open_cursor(self, client_id: str, text: str) -> Cursor:
        """Return the cursor in ``text``.

        Raises:
            CursorError: if it is not a cursor sealed for ``client_id``.
        """
        value = self._open("cursor", client_id, text)
        start, end, direction = value["w"]
        after_id, as_of = value["s"]
        place = value["p"] and place_of(value["p"])
        return Cursor(
            int(start), int(end), direction, value["n"], int(after_id), int(as_of), value["d"], place, int(value["r"])
        )

    def mark(self, client_id: str, complete_to: int) -> str:
        """Return the store's sequence ``complete_to`` sealed for ``client_id``."""
        return self._seal("mark", client_id, {"m": _wide(complete_to)})

    def open_mark(self, client_id: str, text: str) -> int:
        """Return the sequence in ``text``.

        Raises:
            CursorError: if it is not a mark sealed for ``client_id``.
        """
        return int(self._open("mark", client_id, text)["m"])

    def _seal(self, kind: str, client_id: str, value: dict[str, Any]) -> str:
        data = json.dumps(value, separators=(",", ":")).encode()
        return b64url_encode(seal(self._key, [data], _aad(kind, client_id)))

    def _open(self, kind: str, client_id: str, text: str) -> dict[str, Any]:
        try:
            (data,) = open_sealed(self._key, b64url_decode(text), _aad(kind, client_id))
        except (EncodingError, SealError, ValueError) as error:
            raise CursorError from error
        # What opens was made here: from now on it is trusted to be well formed.
        value: dict[str, Any] = json.loads(data)
        return value


def _aad(kind: str, client_id: str) -> bytes:
    return json.dumps(["tollgate", kind, 1, client_id]).encode()


def _wide(value: int) -> str:
    return f"{value:0{_WIDTH}d}"
