"""certificate.pdf: the certificate on letter paper, with room to sign. Made from the same blocks as the text."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final
from xml.sax.saxutils import escape

from reportlab.lib.enums import TA_CENTER
from reportlab.lib.pagesizes import letter
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import KeepTogether, Paragraph, Preformatted, SimpleDocTemplate, Spacer

from proxy.legal.production.certificate import Block
from proxy.legal.production.model import Facts
from proxy.legal.production.pages import dated

_BODY: Final = ParagraphStyle("body", fontName="Times-Roman", fontSize=11, leading=14.5, spaceAfter=8)
_NUMBERED: Final = ParagraphStyle("numbered", parent=_BODY, leftIndent=20, bulletIndent=0)
_TITLE: Final = ParagraphStyle(
    "title", parent=_BODY, fontName="Times-Bold", fontSize=14, leading=18, alignment=TA_CENTER, spaceAfter=2
)
_UNDER: Final = ParagraphStyle("under", parent=_BODY, alignment=TA_CENTER, spaceAfter=12)
_KEPT: Final = ParagraphStyle("kept", fontName="Courier", fontSize=8, leading=10, leftIndent=20, spaceAfter=8)
_LINE_MAX: Final = 92


def as_pdf(facts: Facts, parts: Sequence[Block]) -> bytes:
    """Return the certificate as PDF. The same blocks give the same bytes."""
    pages = _build(facts, parts, 0)[1]
    return _build(facts, parts, pages)[0]


def _build(facts: Facts, parts: Sequence[Block], pages: int) -> tuple[bytes, int]:
    out = BytesIO()
    document = SimpleDocTemplate(
        out, pagesize=letter, leftMargin=72, rightMargin=72, topMargin=64, bottomMargin=64, invariant=1,
        pageCompression=1, title=f"Certificate, case {facts.case_id}, production {facts.number}",
        author=facts.custodian.employer, creator="Tollgate",
    )  # fmt: skip
    count = 0

    def foot(canvas: Canvas, document: Any) -> None:
        nonlocal count
        count = max(count, document.page)
        canvas.setFont("Times-Roman", 9)
        canvas.drawString(72, 40, f"Certificate, case {facts.case_id}, production {facts.number}")
        canvas.drawRightString(letter[0] - 72, 40, f"Page {document.page} of {pages}")

    document.build(_story(parts), onFirstPage=foot, onLaterPages=foot)
    return dated(out.getvalue(), facts.made_at), count


def _story(parts: Sequence[Block]) -> list[Any]:
    story: list[Any] = []
    title = False
    for part in parts:
        if part.heading:
            story.append(Paragraph(_safe(part.text), _TITLE))
            title = True
        elif part.lines:
            text = "\n".join(piece for line in part.lines for piece in _cut(line))
            story.append(Preformatted(_printable(text), _KEPT))
        elif part.number is not None:
            story.append(Paragraph(_safe(part.text), _NUMBERED, bulletText=f"{part.number}."))
        else:
            story.append(Paragraph(_safe(part.text), _UNDER if title else _BODY))
            title = False
    # The declaration, the signature and the note under it stay on one page.
    return [*story[:-3], KeepTogether([Spacer(1, 6), *story[-3:]])]


def _cut(line: str) -> list[str]:
    return [line[at : at + _LINE_MAX] for at in range(0, len(line), _LINE_MAX)] or [""]


def _safe(text: str) -> str:
    return escape(_printable(text))


def _printable(text: str) -> str:
    """The standard typefaces have Latin-1; certificate.txt is exact."""
    return "".join(c if c == "\n" or " " <= c <= "~" or "\xa0" <= c <= "\xff" else "?" for c in text)
