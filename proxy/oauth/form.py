"""The body of a token request, strictly (RFC 6749 sections 3.2 and 4.4.2; appendix B). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from proxy.oauth.errors import Refused

BODY_MAX = 64 * 1024
"""Most bytes of a body."""
_PARAMETERS_MAX = 32
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTENT_TYPE = re.compile(r'application/x-www-form-urlencoded(?:[ \t]*;[ \t]*charset="?utf-8"?)?[ \t]*', re.I | re.A)


def check_content_type(values: list[str]) -> None:
    """Refuse everything but one plain form content type.

    Raises:
        Refused: request.content_type.
    """
    if len(values) != 1 or _CONTENT_TYPE.fullmatch(values[0]) is None:
        raise Refused("request.content_type")


def parse(body: bytes) -> Mapping[str, str]:
    """Return the parameters that have a value (RFC 6749 section 3.2: one without value counts as absent).

    Raises:
        Refused: request.too_large, request.form (bad escapes, not UTF-8, control characters, too many), or
            request.duplicate (a name twice, ours or not, with a value or without).
    """
    if len(body) > BODY_MAX:
        raise Refused("request.too_large")
    found: dict[str, str] = {}
    pairs = [pair for pair in body.split(b"&") if pair]
    if len(pairs) > _PARAMETERS_MAX:
        raise Refused("request.form")
    for pair in pairs:
        raw_name, _, raw_value = pair.partition(b"=")
        name, value = _text(raw_name), _text(raw_value)
        if not name:
            raise Refused("request.form")
        if name in found:
            raise Refused("request.duplicate")
        found[name] = value
    return {name: value for name, value in found.items() if value}


def _text(raw: bytes) -> str:
    if _BAD_ESCAPE.search(raw):
        raise Refused("request.form")
    try:
        text = unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("request.form") from error
    if _CONTROL.search(text):
        raise Refused("request.form")
    return text
