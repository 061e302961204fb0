"""Looks at a PDF: run as a process of its own (``python -I pdfcheck.py``), for the PDF is a stranger's.

The document comes on standard input (a file that can be sought in), the limits as arguments; the answer is one line of
JSON: ``{"pages": n, "findings": [codes]}`` or ``{"refused": code}``. The process limits itself before it reads the
first byte: memory, processor time, no new file, no core. What it does within those limits is not trusted either: its
parent reads at most a few kilobytes of its answer.
"""

from __future__ import annotations

import io
import json
import resource
import sys
from typing import Any

PAGES_MAX = 2_000
OBJECTS_MAX = 100_000
STREAMS_MAX = 256 * 1024 * 1024
"""Most bytes that all the streams of a document may unfold to; one alone may to 75 MB (pypdf's own limit)."""

ACTIVE = {
    "/JavaScript": "javascript",
    "/JS": "javascript",
    "/Launch": "launch",
    "/EmbeddedFile": "attachment",
    "/EmbeddedFiles": "attachment",
    "/RichMedia": "media",
    "/SubmitForm": "form_action",
    "/ImportData": "form_action",
    "/GoToR": "remote",
    "/GoToE": "remote",
    "/OpenAction": "open_action",
    "/AA": "open_action",
    "/XFA": "xfa",
    "/URI": "link",
}
"""What a document can do beside being read: names of dictionary keys and of actions, and the code each is told as."""


class Refusal(Exception):  # noqa: N818
    """The document is not taken; the code says why."""


def look(data: bytes) -> dict[str, Any]:
    """Return what is found in a PDF.

    Raises:
        Refusal: it is none, is encrypted, or unfolds to more than is looked at.
    """
    from pypdf import PdfReader
    from pypdf.errors import LimitReachedError
    from pypdf.generic import ArrayObject, DictionaryObject, IndirectObject, NameObject, StreamObject

    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted:
            raise Refusal("encrypted")
        pages = len(reader.pages)
        if not 1 <= pages <= PAGES_MAX:
            raise Refusal("pages")
        findings: set[str] = set()
        unfolded = objects = 0
        seen: set[tuple[int, int]] = set()
        work: list[Any] = [reader.trailer]
        # As deep as it goes: what an object may hide below is bounded by the number of objects alone.
        while work:
            item = work.pop()
            if isinstance(item, IndirectObject):
                if (item.idnum, item.generation) in seen:
                    continue
                seen.add((item.idnum, item.generation))
                # A reference that leads to another one is none (ISO 32000-2, 7.3.10), and pypdf takes none.
                item = item.get_object()
            objects += 1
            if objects > OBJECTS_MAX:
                raise Refusal("objects")
            if isinstance(item, DictionaryObject):
                findings |= {ACTIVE[key] for key in item if key in ACTIVE}
                # A name may stand elsewhere: /S 6 0 R, and there /Launch.
                names = [v.get_object() if isinstance(v, IndirectObject) else v for v in item.values()]
                findings |= {ACTIVE[name] for name in names if isinstance(name, NameObject) and name in ACTIVE}
                work += item.values()
                if isinstance(item, StreamObject):
                    unfolded += len(item.get_data())
                    if unfolded > STREAMS_MAX:
                        raise Refusal("bomb")
            elif isinstance(item, ArrayObject):
                work += item
        return {"pages": pages, "findings": sorted(findings)}
    except Refusal:
        raise
    except (MemoryError, RecursionError, LimitReachedError) as error:
        raise Refusal("bomb") from error
    except Exception as error:
        raise Refusal("unreadable") from error


def main() -> None:
    """Read standard input, print what was found."""
    memory, seconds = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    import logging

    logging.disable()
    try:
        answer = look(sys.stdin.buffer.read())
    except Refusal as refusal:
        answer = {"refused": str(refusal)}
    print(json.dumps(answer))  # noqa: T201 - the answer to the parent


if __name__ == "__main__":
    main()
