"""Columns as text, whole columns at a time: times, numbers and decimals by look-up tables in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schema.fields import DECIMAL_SCALE

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_FIRST_DAY: Final = 10_957  # 2000-01-01; ingest takes no year outside 2000 to 2100
_DAYS_KEPT: Final = 37_000
_FEW: Final = 1_000
"""Integers of so small a range are looked up in a table of their texts."""


def _cut(words: list[bytes], dtype: list[tuple[str, str]]) -> npt.NDArray[np.void]:
    """A table of words of one length, as records of machine integers: those are gathered fast."""
    return np.frombuffer(b"".join(words), np.dtype(dtype))


_DAYS: Final = _cut(
    [str(np.datetime64(_FIRST_DAY + i, "D")).encode() + b"T" for i in range(_DAYS_KEPT)],
    [("d0", "<u8"), ("d1", "<u2"), ("d2", "u1")],
)
_SECONDS: Final = _cut(
    [b"%02d:%02d:%02d." % (i // 3600, i // 60 % 60, i % 60) for i in range(86_400)], [("s0", "<u8"), ("s1", "u1")]
)
_THREE: Final = _cut([b"%03d" % i for i in range(1_000)], [("a", "<u2"), ("b", "u1")])
_DAY_PARTS, _SECOND_PARTS, _THREE_PARTS = (
    {name: np.ascontiguousarray(table[name]) for name in table.dtype.names or ()} for table in (_DAYS, _SECONDS, _THREE)
)
_FOUR: Final = np.array([b"%04d" % i for i in range(10_000)], "S4").view(np.uint32)
_STAMP: Final = np.dtype(
    [
        *(("d0", "<u8"), ("d1", "<u2"), ("d2", "u1"), ("s0", "<u8"), ("s1", "u1")),
        *(("m0", "<u2"), ("m1", "u1"), ("u0", "<u2"), ("u1", "u1"), ("zone", "u1")),
    ]
)


def _divided(values: Ints, by: int) -> tuple[Ints, Ints]:
    """Floor division and remainder; numpy's own divmod is several times slower than these two."""
    quotient = values // by
    return quotient, values - quotient * by


@cache
def literal(text: str) -> pa.Scalar:
    """Return a constant for Arrow's functions. Typed: to infer a type, Arrow looks for a package on disk every time."""
    return pa.scalar(text, pa.string())


def _values(array: pa.Array) -> tuple[Ints, Mask | None]:
    """Return the integers of a column, with something valid under nulls, and which are not null."""
    values = np.frombuffer(array.buffers()[1], np.int64, len(array), array.offset * 8)
    if not array.null_count:
        return values, None
    return values, array.is_valid().to_numpy(zero_copy_only=False)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Text of one width in every record: row ``i`` of ``matrix`` (rows, width), ASCII."""

    matrix: Bytes

    def __len__(self) -> int:
        return len(self.matrix)

    def array(self) -> pa.Array:
        """Return it as strings."""
        rows, width = self.matrix.shape
        offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
        return pa.Array.from_buffers(
            pa.string(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(self.matrix))]
        )

    def with_text(self, text: str) -> Fixed:
        """Return it with the same text after each."""
        return Fixed.beside([self, text], "")

    @staticmethod
    def beside(cells: Sequence[Fixed | str], separator: str) -> Fixed:
        """Return cells side by side; text is the same in each record. At least one is no text."""
        between = separator.encode()
        words = [c if isinstance(c, Fixed) else c.encode() for c in cells]
        rows = next(len(c) for c in words if isinstance(c, Fixed))
        widths = [c.matrix.shape[1] if isinstance(c, Fixed) else len(c) for c in words]
        out = np.empty((rows, sum(widths) + len(between) * (len(words) - 1)), np.uint8)
        at = 0
        for word, width in zip(words, widths, strict=True):
            out[:, at : at + width] = word.matrix if isinstance(word, Fixed) else np.frombuffer(word, np.uint8)
            at += width
            if at < out.shape[1]:
                out[:, at : at + len(between)] = np.frombuffer(between, np.uint8)
                at += len(between)
        return Fixed(out)


Column: TypeAlias = pa.Array | Fixed


def array_of(column: Column) -> pa.Array:
    """Return a column as an Arrow array."""
    return column.array() if isinstance(column, Fixed) else column


def fixed(matrix: Bytes, valid: Mask | None) -> Column:
    """Return strings all of one length: row ``i`` of ``matrix``, or null where not ``valid``."""
    if valid is None:
        return Fixed(matrix)
    rows, width = matrix.shape
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(valid, out=offsets[1:])
    offsets *= width
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(pa.string(), rows, [bitmap, pa.py_buffer(offsets), pa.py_buffer(matrix[valid])])


def even(array: pa.Array) -> Column:
    """Return text as :class:`Fixed` where it has one width throughout: such columns are put together at less cost."""
    if array.null_count or not len(array):
        return array if pa.types.is_string(array.type) else array.cast(pa.string())
    if pa.types.is_dictionary(array.type):
        words = [w.encode() for w in array.dictionary.to_pylist()]
        if len({len(w) for w in words}) > 1 or not words[0]:
            return array.cast(pa.string())
        return Fixed(_table(words)[array.indices.to_numpy()])
    if pa.types.is_integer(array.type):
        values, _ = _values(array)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high - low >= _FEW or len(str(low)) != len(str(high)):
            return array.cast(pa.string())
        return Fixed(_table([str(n).encode() for n in range(low, high + 1)])[values - low])
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32, len(array) + 1, array.offset * 4)
    width, rest = divmod(int(ends[-1] - ends[0]), len(array))
    if rest or not width or not (ends[1:] - ends[:-1] == width).all():
        return array
    return Fixed(np.frombuffer(data, np.uint8, len(array) * width, int(ends[0])).reshape(-1, width))


def _table(words: Sequence[bytes]) -> Bytes:
    return np.frombuffer(b"".join(words), np.uint8).reshape(len(words), -1)


def time_text(array: pa.Array) -> Column:
    """Return microseconds as RFC 3339, ``2026-09-01T12:00:00.000000Z``."""
    values, valid = _values(array)
    if valid is not None:
        values = np.where(valid, values, _FIRST_DAY * 86_400_000_000)
    seconds, micros = _divided(values, 1_000_000)
    days, second = _divided(seconds, 86_400)
    ms, us = _divided(micros, 1_000)
    days -= _FIRST_DAY
    out = np.empty(len(values), _STAMP)
    for name, part in _DAY_PARTS.items():
        out[name] = part[days]
    for name, part in _SECOND_PARTS.items():
        out[name] = part[second]
    out["m0"], out["m1"] = _THREE_PARTS["a"][ms], _THREE_PARTS["b"][ms]
    out["u0"], out["u1"] = _THREE_PARTS["a"][us], _THREE_PARTS["b"][us]
    out["zone"] = ord("Z")
    return fixed(out.view(np.uint8).reshape(len(values), _STAMP.itemsize), valid)


def number(values: pa.Array | None, raw: pa.Array | None, rows: int) -> Column:
    """Return numbers as ``+`` and E.164 digits; what is no E.164 number as its raw text, which has no ``+``."""
    if values is None:
        return pa.nulls(rows, pa.string()) if raw is None else raw
    digits, valid = _values(values)
    known = digits if valid is None else digits[valid]
    if len(known) and known.min() >= 10_000_000_000 and known.max() < 100_000_000_000:
        text = fixed(_eleven(digits if valid is None else np.where(valid, digits, 10_000_000_000)), valid)
    else:
        text = pc.binary_join_element_wise(literal("+"), values.cast(pa.string()), literal(""))
    return text if raw is None else pc.coalesce(array_of(text), raw)


def _eleven(digits: Ints) -> Bytes:
    """``+`` and eleven digits: the North American plan."""
    high, low = _divided(digits, 10_000)
    top, middle = _divided(high, 10_000)
    groups = np.empty((len(digits), 3), np.uint32)
    groups[:, 0], groups[:, 1], groups[:, 2] = _FOUR[top], _FOUR[middle], _FOUR[low]
    out = groups.view(np.uint8).reshape(len(digits), 12)
    out[:, 0] = ord("+")
    return out


def decimal(array: pa.Array) -> pa.Array:
    """Return units of 10^-8 as Arrow decimals."""
    values, _ = _values(array)
    words = np.empty((len(values), 2), np.int64)
    words[:, 0], words[:, 1] = values, values >> 63
    bitmap = array.is_valid().cast(pa.bool_()) if array.null_count else None
    buffer = None if bitmap is None else bitmap.buffers()[1]
    return pa.Array.from_buffers(pa.decimal128(18, DECIMAL_SCALE), len(values), [buffer, pa.py_buffer(words)])


def decimal_text(array: pa.Array) -> Column:
    """Return units of 10^-8 as plain decimals with all eight places."""
    values, valid = _values(array)
    if valid is not None:
        values = np.where(valid, values, 0)
    if len(values) and values.min() >= 0 and values.max() < 10 * 10**DECIMAL_SCALE:
        whole, part = _divided(values, 10**DECIMAL_SCALE)
        high, low = _divided(part, 10_000)
        out = np.empty((len(values), 10), np.uint8)
        out[:, 0], out[:, 1] = whole + ord("0"), ord(".")
        out[:, 2:6] = _FOUR[high].view(np.uint8).reshape(-1, 4)
        out[:, 6:] = _FOUR[low].view(np.uint8).reshape(-1, 4)
        return fixed(out, valid)
    # Not Arrow's own text of a decimal: it writes 0 as "0E-8".
    amount = np.abs(values).view(np.uint64)
    whole, part = np.divmod(amount, np.uint64(10**DECIMAL_SCALE))
    high, low = np.divmod(part.astype(np.int64), 10_000)
    digits = np.empty((len(values), 2), np.uint32)
    digits[:, 0], digits[:, 1] = _FOUR[high], _FOUR[low]
    places = array_of(fixed(digits.view(np.uint8).reshape(-1, 8), valid))
    sign = pa.array(np.where(values < 0, "-", ""), pa.string())
    return pc.binary_join_element_wise(
        pc.binary_join_element_wise(sign, pa.array(whole).cast(pa.string()), literal("")), places, literal(".")
    )
