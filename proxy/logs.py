"""Structured logs: one JSON object a line, holding only what this package chose to say.

A line never holds a telephone number, a token, a query string or a body. So a message is an event name and fields given
one by one; an exception is written as its type and the places it passed, without its text (a database error's text may
hold a value, a parser's quotes the request), and is not handed to `logging` at all, whose other handlers would write
it out; a record of another library is written as its level and place alone.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

ROOT = "tollgate"
_FIELDS = "tollgate_fields"
_ERROR = "tollgate_error"


def get(name: str) -> logging.Logger:
    """Return the logger ``tollgate.<name>``."""
    return logging.getLogger(f"{ROOT}.{name}")


def event(
    logger: logging.Logger,
    level: int,
    name: str,
    error: BaseException | type[BaseException] | None = None,
    **fields: str | int | float | None,
) -> None:
    """Log the event ``name`` with ``fields``; fields that are None are left out.

    Args:
        error: what happened; of a type alone only its name is logged, and no trace.
    """
    about: dict[str, object] = {}
    if isinstance(error, type):
        about = {"error": error.__qualname__}
    elif error is not None:
        about = _about(type(error), error.__traceback__)
    logger.log(level, name, extra={_FIELDS: fields, _ERROR: about})


def frames(trace: TracebackType | None) -> list[str]:
    """Return the places an exception passed, outermost first: nothing but places of the source."""
    return [f"{f.filename.rpartition('/')[2]}:{f.lineno}:{f.name}" for f in traceback.extract_tb(trace)]


def _about(kind: type[BaseException], trace: TracebackType | None) -> dict[str, object]:
    return {"error": kind.__qualname__, "trace": frames(trace)}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        own = record.name == ROOT or record.name.startswith(ROOT + ".")
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            # Another library's message may hold anything; its place in the source says what it was.
            "event": record.msg if own and isinstance(record.msg, str) else f"{record.module}:{record.lineno}",
        }
        fields = getattr(record, _FIELDS, None)
        if own and isinstance(fields, dict):
            line.update({key: value for key, value in fields.items() if value is not None and key not in line})
        about = getattr(record, _ERROR, None)
        if own and isinstance(about, dict):
            line.update(about)
        elif record.exc_info and record.exc_info[1] is not None:  # another library's
            line.update(_about(type(record.exc_info[1]), record.exc_info[2]))
        return json.dumps(line, separators=(",", ":"), ensure_ascii=True)


def configure(level: int = logging.INFO, stream: TextIO | None = None) -> logging.Handler:
    """Send every log of the process through :class:`JsonFormatter` to ``stream`` (default standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    return handler
