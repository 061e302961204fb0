"""The published vectors of the store's formats (tests/vectors/store), and a second reader written from the page.

The bodies stand before zstd and sealing: zstd's output is its version's own, and sealing has vectors of its own.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from keys.provider import DataKey, Period
from keys.sealing import seal
from proxy.store import columns, fingerprints, tags, writer
from proxy.store.batches import CLASS_FIELDS, Part, Sealed, Shape, manifest, parse_manifest
from proxy.store.planes import compress
from schema.fields import DisclosureClass, Kind, TagDomain

FOLDER = Path(__file__).parent.parent / "vectors" / "store"
CHUNKS, TAGS, PRINTS, BATCHES = (
    json.loads((FOLDER / f"{n}.json").read_text()) for n in ("chunks", "tags", "fingerprints", "batches")
)


class Body:
    """A second reader of chunk bodies, as deploy/docs/format.md says, value by value."""

    def __init__(self, data: bytes, cls: DisclosureClass) -> None:
        self.data, self.at = data, 0
        version, self.rows, fields = self.take("<BIB")
        assert version == 1
        self.columns: dict[str, list[Any]] = {}
        for field in CLASS_FIELDS[cls][:fields]:
            self.field(field.name, field.kind)
        assert self.at == len(data)

    def take(self, shape: str) -> Any:
        values = struct.unpack_from(shape, self.data, self.at)
        self.at += struct.calcsize(shape)
        return values if len(values) > 1 else values[0]

    def bytes(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def planes(self, width: int) -> list[int]:
        rows = [self.bytes(self.rows) for _ in range(width)]
        return [sum(plane[i] << 8 * p for p, plane in enumerate(rows)) for i in range(self.rows)]

    def field(self, name: str, kind: Kind) -> None:
        head = self.take("<B")
        encoding = head & 15
        if encoding == 0:
            return
        valid = [True] * self.rows
        if head & 16:
            bits = self.bytes((self.rows + 7) // 8)
            valid = [bool(bits[i // 8] >> i % 8 & 1) for i in range(self.rows)]
        if encoding in (1, 4):
            values: list[Any] = self.integers(bool(head & 32))
        elif encoding == 2:
            lengths = self.planes(self.take("<B"))
            values = self.texts(lengths)
        else:
            count = self.take("<H") + 1
            words = self.texts([self.take("<I") for _ in range(count)])
            values = [words[c] for c in self.planes(self.take("<B"))]
        self.columns[name] = [v if ok else None for v, ok in zip(values, valid, strict=True)]
        if encoding == 4:
            assert kind is Kind.NUMBER
            count = self.take("<I")
            if count:
                at = [self.take("<I") for _ in range(count)]
                raws = self.texts([self.take("<I") for _ in range(count)])
                found = dict(zip(at, raws, strict=True))
                self.columns[name + "_raw"] = [found.get(i) for i in range(self.rows)]

    def integers(self, delta: bool) -> list[int]:
        scale, width, base = self.take("<BBq")
        values, total = [], 0
        for plane in self.planes(width):
            total = total + plane if delta else plane
            word = (base + total) * 10**scale % 2**64
            values.append(word - 2**64 if word >> 63 else word)
        return values

    def texts(self, lengths: list[int]) -> list[str]:
        size = self.take("<I")
        assert sum(lengths) == size
        return [self.bytes(n).decode() for n in lengths]


def filled(table: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {n: v for n, v in table.items() if any(x is not None for x in v)}


@pytest.mark.parametrize("vector", CHUNKS["vectors"], ids=lambda v: v["name"])
def test_chunks(vector: dict[str, Any]) -> None:
    cls = DisclosureClass(vector["class"])
    body = bytes.fromhex(vector["body"])
    assert filled(Body(body, cls).columns) == vector["columns"]
    made = columns.decode(compress(body), CLASS_FIELDS[cls])
    assert made.num_rows == vector["rows"]
    assert made.schema == columns.arrow_schema(CLASS_FIELDS[cls])
    ints = {
        n: (c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c).to_pylist()
        for n, c in zip(made.schema.names, made.columns, strict=True)
    }
    assert filled(ints) == vector["columns"]


@pytest.mark.parametrize("vector", CHUNKS["vectors"], ids=lambda v: v["name"])
def test_what_we_write_the_second_reader_reads(vector: dict[str, Any]) -> None:
    from proxy.store.planes import decompress

    cls = DisclosureClass(vector["class"])
    schema = columns.arrow_schema(CLASS_FIELDS[cls])
    table = pa.table(
        {
            n: pa.array(v, pa.int64()).cast(schema.field(n).type)
            if isinstance(next(x for x in v if x is not None), int)
            else pa.array(v, pa.string())
            for n, v in vector["columns"].items()
        }
    )
    frame = columns.encode(columns.prepare(table, CLASS_FIELDS[cls]), 0, vector["rows"])
    assert filled(Body(decompress(frame), cls).columns) == vector["columns"]


KEYS = {
    n: DataKey(1, Period(n, 202607), bytes.fromhex(v["secret"])) for n, v in (("tags", TAGS), ("fingerprints", PRINTS))
}


@pytest.mark.parametrize("vector", TAGS["vectors"], ids=lambda v: f"{v['domain']} {v['value']}")
def test_tags(vector: dict[str, Any]) -> None:
    assert tags.derive(KEYS["tags"], "search tag 1").hex() == TAGS["key"]
    tagger = tags.Tagger(KEYS["tags"])
    domain = TagDomain[vector["domain"].upper()]
    if domain is TagDomain.NUMBER:
        made = int(tagger.numbers(np.array([int(vector["value"][1:])]))[0])
    else:
        made = int(tagger.texts(domain, pa.array([vector["value"]]))[0])
    assert made.to_bytes(5, "big").hex() == vector["tag"]


def test_a_tag_segment() -> None:
    s = TAGS["segment"]
    entries = s["entries"]
    sealed = seal(KEYS["tags"], [compress(bytes.fromhex(s["body"]))], bytes.fromhex(s["aad"]))
    opened = tags.open_segment(KEYS["tags"], s["month"], int(s["run"]), s["bucket"], len(entries), sealed)
    assert opened.tolist() == [t << 24 | r for t, r in entries]


def record(fields: dict[str, Any]) -> pa.Table:
    return pa.table({n: pa.array([v], pa.string() if isinstance(v, str) else pa.int64()) for n, v in fields.items()})


@pytest.mark.parametrize("number", range(len(PRINTS["vectors"])))
def test_fingerprints(number: int) -> None:
    vector = PRINTS["vectors"][number]
    key = KEYS["fingerprints"]
    assert tags.derive(key, "fingerprint identity 1").hex() == PRINTS["identity_key"]
    made = fingerprints.Fingerprinter(key).of(record(vector["fields"]), pa.array([vector["identity"]]))
    assert f"{int(made.high[0]):016x}{int(made.low[0]):016x}" == vector["fingerprint"]


def test_a_fingerprint_segment() -> None:
    s = PRINTS["segment"]
    sealed = seal(KEYS["fingerprints"], [compress(bytes.fromhex(s["body"]))], bytes.fromhex(s["aad"]))
    count = len(PRINTS["vectors"])
    opened = fingerprints.open_segment(KEYS["fingerprints"], s["month"], s["day"], int(s["segment"]), count, sealed)
    made = [f"{h:016x}{low:016x}" for h, low in zip(opened.high.tolist(), opened.low.tolist(), strict=True)]
    assert made == sorted(v["fingerprint"] for v in PRINTS["vectors"])


def test_a_batch() -> None:
    shape = Shape(**BATCHES["shape"])
    ocns = tuple(BATCHES["ocns"])
    for name, aad in BATCHES["aads"].items():
        ocn = {"ingress_leg": ocns[0], "egress_leg": ocns[1]}.get(name, 0)
        assert shape.aad(DisclosureClass(name), ocn).hex() == aad
    blobs = {DisclosureClass(c): bytes.fromhex(b) for c, b in BATCHES["blobs"].items()}
    digest = Sealed(shape, blobs, ocns).digest()
    assert digest.hex() == BATCHES["digest"]
    s = BATCHES["segment_digest"]
    segment = writer.segment_digest(s["month"], s["run"], s["bucket"], s["entries"], bytes.fromhex(s["sealed"]))
    assert segment.hex() == s["digest"]
    parts = [(Part.BATCH, shape.object_id, digest), (Part.SEGMENT, s["bucket"], segment)]
    assert manifest(parts).hex() == BATCHES["manifest"]
    assert list(parse_manifest(bytes.fromhex(BATCHES["manifest"]))) == parts
