"""Documents: what is no PDF, what is one and more, and bombs; looked at in a process of its own."""

from __future__ import annotations

import io
import zlib
from collections.abc import AsyncIterator, Callable

import pytest
from pypdf import PdfWriter
from pypdf.actions import JavaScript
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NumberObject, StreamObject, TextStringObject

from proxy.legal.documents import LENGTH_MAX, TooLarge, inspect
from proxy.legal.model import Refused
from tests.support.cases import parts, pdf


def changed(change: Callable[[PdfWriter], object]) -> bytes:
    """A document of one page with something else in it."""
    writer = PdfWriter(clone_from=io.BytesIO(pdf()))
    change(writer)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def stream(writer: PdfWriter, name: str, data: bytes, filters: int = 1) -> None:
    """Put a stream into the document that is coded so often."""
    made = StreamObject()
    made._data = data
    names = ArrayObject([NameObject("/FlateDecode")] * filters)
    made[NameObject("/Filter")] = names
    made[NameObject("/Length")] = NumberObject(len(data))
    writer.root_object[NameObject(f"/{name}")] = writer._add_object(made)


def bomb(writer: PdfWriter) -> None:
    stream(writer, "B", zlib.compress(bytes(1 << 28), 9))


def nested(writer: PdfWriter) -> None:
    data = bytes(1 << 27)
    for _ in range(3):
        data = zlib.compress(data, 9)
    stream(writer, "B", data, 3)


def many(writer: PdfWriter) -> None:
    data = zlib.compress(bytes(60 << 20), 9)
    for n in range(6):
        stream(writer, f"B{n}", data)


def deep(writer: PdfWriter) -> None:
    inner: DictionaryObject = DictionaryObject()
    for _ in range(300):
        inner = DictionaryObject({NameObject("/K"): inner})
    writer.root_object[NameObject("/Deep")] = inner


def launch(writer: PdfWriter) -> None:
    action = DictionaryObject({NameObject("/S"): NameObject("/Launch"), NameObject("/F"): TextStringObject("a.exe")})
    writer.root_object[NameObject("/OpenAction")] = action


def raw(*objects: bytes) -> bytes:
    """A document of objects as they are written here, from number 1: catalog, pages, the page, and more."""
    out, at = b"%PDF-1.7\n", []
    for number, each in enumerate(objects, 1):
        at.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in at)
    end = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(out))
    return out + b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table) + end


def page(catalog: bytes = b"", own: bytes = b"") -> tuple[bytes, bytes, bytes]:
    """The first three objects."""
    return (
        b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalog,
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] %s >>" % own,
    )


LINK = b"<< /Type /Annot /Subtype /Link /Rect [0 0 9 9] /A 5 0 R >>"
REFERRED = raw(*page(own=b"/Annots [4 0 R]"), LINK, b"<< /S 6 0 R /F (calc.exe) >>", b"/Launch")
TWICE = raw(*page(own=b"/Annots [4 0 R]"), LINK, b"<< /S 6 0 R /F (calc.exe) >>", b"7 0 R", b"8 0 R", b"/Launch")
BY_REFERENCE = raw(*page(own=b"/Annots [4 0 R]"), b"5 0 R", b"6 0 R", b"<< /S /URI /X [7 0 R] >>", b"6 0 R")
IN_CODE = raw(*page(own=b"/Annots [4 0 R]"), LINK, b"<< /S /L#61unch /F (calc.exe) >>")
SEEN_FIRST = raw(*page(own=b"/X [6 0 R] /Annots [4 0 R] /Y 6 0 R"), LINK, b"<< /S 6 0 R /F (calc.exe) >>", b"/Launch")
ROUND = raw(*page(own=b"/X 4 0 R"), b"5 0 R", b"4 0 R")


def outline(last: bytes, *more: bytes, items: int = 80) -> bytes:
    """A document with an outline, of which each item leads to the next; ``more`` are numbered from 6 + items."""
    chain = (b"<< /Title (x) /Next %d 0 R >>" % (6 + n) for n in range(items))
    return raw(*page(b"/Outlines 4 0 R"), b"<< /First 5 0 R >>", *chain, last, *more)


def hidden_bomb() -> bytes:
    data = zlib.compress(bytes(60 << 20), 9)
    streams = [
        b"<< /Length %d /Filter /FlateDecode /Next %d 0 R >>\nstream\n%s\nendstream" % (len(data), 87 + n, data)
        for n in range(6)
    ]
    return outline(b"<< /Title (y) /A 86 0 R >>", *streams, b"null")


@pytest.mark.parametrize(
    ("rule", "data"),
    [
        ("not_pdf", b""),
        ("not_pdf", b"%PD"),
        ("not_pdf", b"PK\x03\x04" + bytes(1000)),
        ("not_pdf", b"<html>" + pdf()),
        ("unreadable", b"%PDF-1.7\n" + b"x" * 1000),
        ("unreadable", pdf()[:400]),
        ("encrypted", changed(lambda w: w.encrypt("secret"))),
        ("bomb", changed(bomb)),
        ("bomb", changed(nested)),
        ("bomb", changed(many)),
        ("bomb", hidden_bomb()),
        ("unreadable", TWICE),
        ("unreadable", BY_REFERENCE),
        ("unreadable", ROUND),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
async def test_what_is_not_taken(rule: str, data: bytes) -> None:
    with pytest.raises(Refused) as error:
        await inspect(parts(data))
    assert error.value.rule == f"document.{rule}"


@pytest.mark.parametrize(
    ("findings", "data"),
    [
        ((), pdf()),
        (("javascript",), changed(lambda w: w.add_open_action(JavaScript("app.alert(1)")))),
        (("attachment",), changed(lambda w: w.add_attachment("a.txt", b"a"))),
        (("launch", "open_action"), changed(launch)),
        ((), changed(deep)),
        (("launch",), REFERRED),
        (("launch",), IN_CODE),
        (("launch",), SEEN_FIRST),
        (("javascript",), outline(b"<< /Title (y) /A << /S /JavaScript /JS (app.alert\\(1\\)) >> >>")),
        (("javascript",), outline(b"<< /Title (y) /A << /S /JavaScript >> >>", items=5_000)),
        ((), outline(b"<< /Title (y) >>")),
        ((), raw(*page(own=b"/F << /Differences [65 /JS /Launch] >>"))),
    ],
    ids=lambda x: "+".join(x) if isinstance(x, tuple) else "",
)
async def test_what_is_taken_is_told_what_it_has(findings: tuple[str, ...], data: bytes) -> None:
    looked = await inspect(parts(data, 7))
    assert (looked.pages, looked.findings, looked.data) == (1, findings, data)


async def test_nothing_is_held_of_what_is_too_large() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        yield b"%PDF-1.7\n"
        while taken < 2 * LENGTH_MAX:  # not for ever, should nobody stop it
            taken += 1 << 20
            yield bytes(1 << 20)

    with pytest.raises(TooLarge):
        await inspect(endless())
    assert taken <= LENGTH_MAX + (1 << 20)
