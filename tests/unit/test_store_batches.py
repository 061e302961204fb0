"""Batches: a ciphertext opens only where it was made, and only whole."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from keys.errors import SealError
from keys.provider import DataKey, Period
from proxy.store.batches import CLASSES, LEGS, SHARED, Part, Sealed, Shape, Table, manifest, parse_manifest
from proxy.store.columns import ARROW
from proxy.store.opening import SealedClass, open_class, open_object
from proxy.store.planes import FormatError
from schema.fields import DisclosureClass, Kind

C = DisclosureClass
MONTH = 202607
KEYS = {c: DataKey(i + 1, Period(c.value, MONTH), bytes([i + 1]) * 32) for i, c in enumerate(CLASSES)}
ROWS = 5_000
TABLE = pa.table(
    {
        "record_id": pa.array(range(100, 100 + ROWS), pa.int64()),
        "started_at": pa.array(range(1_782_864_000_000_000, 1_782_864_000_000_000 + ROWS), ARROW[Kind.TIME]),
        "calling": pa.array([12025550100 + i % 100 for i in range(ROWS)], pa.int64()),
        "switch_id": pa.array(["sw1"] * ROWS),
        "ingress_ocn": pa.array(["123A"] * ROWS),
        "egress_ocn": pa.array(["456B"] * ROWS),
        "account": pa.array([f"acc-{i}" for i in range(ROWS)]),
        "line_number": pa.array(range(2, 2 + ROWS), pa.int64()),
    }
)


def batch(object_id: int = 77, start: int = 0, stop: int = ROWS) -> Sealed:
    return Table(TABLE).seal(
        KEYS,
        start,
        stop,
        month=MONTH,
        object_id=object_id,
        record_ids=(100 + start, 99 + stop),
        pair_id=3,
        ocns=(1000, 2000),
    )


ONE = batch()


def ocn_of(sealed: Sealed, cls: C) -> int:
    return sealed.ocns[0] if cls is LEGS[1] else sealed.ocns[1] if cls is LEGS[2] else 0


def opens(shape: Shape, cls: C, ocn: int, blob: bytes) -> bool:
    """Whether it opens; a refusal is a SealError and nothing else."""
    try:
        open_class(KEYS, cls, [SealedClass(shape, ocn, blob)])
    except SealError:
        return False
    return True


def test_a_batch_opens_to_what_went_in() -> None:
    made = open_object(ONE, KEYS)
    assert made.num_rows == ROWS
    assert {n: made.column(n).to_pylist() for n in made.schema.names} == TABLE.to_pydict()


def test_an_empty_class_is_not_there_and_says_so() -> None:
    assert set(ONE.blobs) == {C.TIMING, C.PARTIES, C.ROUTING, C.INGRESS_LEG, C.EGRESS_LEG, C.SUBSCRIBER, C.SOURCE}
    assert [c for c in CLASSES if ONE.shape.has(c)] == [c for c in CLASSES if c in ONE.blobs]


@pytest.mark.parametrize("cls", sorted(ONE.blobs))
@pytest.mark.parametrize(
    "change",
    [
        {"month": 202608},
        {"object_id": 78},
        {"rows": ROWS - 1},
        {"first_record_id": 99},
        {"last_record_id": 100 + ROWS},
        {"first_start": 1_782_864_000_000_001},
        {"last_start": 1_782_864_000_000_000},
        {"classes": 1},
        {"format": 2},
        {"pair_id": 4},
    ],
    ids=lambda c: next(iter(c)),
)
def test_what_stands_in_clear_is_bound(cls: C, change: dict[str, int]) -> None:
    ocn = ocn_of(ONE, cls)
    assert opens(ONE.shape, cls, ocn, ONE.blobs[cls])
    assert not opens(replace(ONE.shape, **change), cls, ocn, ONE.blobs[cls])


def test_a_class_that_was_taken_away_is_missed_by_all_others() -> None:
    """Drop the subscriber class and its bit: nothing else opens either."""
    bit = 1 << CLASSES.index(C.SUBSCRIBER)
    less = replace(ONE.shape, classes=ONE.shape.classes & ~bit)
    assert not any(opens(less, c, ocn_of(ONE, c), ONE.blobs[c]) for c in ONE.blobs)


def test_another_batchs_ciphertext_does_not_open_here() -> None:
    other = batch(object_id=78)
    for cls in ONE.blobs:
        assert not opens(ONE.shape, cls, ocn_of(ONE, cls), other.blobs[cls])


@pytest.mark.parametrize("cls", sorted(ONE.blobs))
def test_another_classs_ciphertext_does_not_open_here(cls: C) -> None:
    """Even if all classes had one key, which they have not."""
    one_key = dict.fromkeys(CLASSES, KEYS[cls])
    for other in ONE.blobs:
        if other is not cls:
            with pytest.raises(SealError):
                open_class(one_key, other, [SealedClass(ONE.shape, ocn_of(ONE, other), ONE.blobs[cls])])
            assert not opens(ONE.shape, other, ocn_of(ONE, other), ONE.blobs[cls])


def test_a_sides_ciphertext_is_bound_to_its_ocn_and_side() -> None:
    ingress, egress = LEGS[1], LEGS[2]
    assert opens(ONE.shape, ingress, 1000, ONE.blobs[ingress])
    assert not opens(ONE.shape, ingress, 2000, ONE.blobs[ingress])
    assert not opens(ONE.shape, ingress, 0, ONE.blobs[ingress])
    same = dict.fromkeys(CLASSES, KEYS[ingress])
    with pytest.raises(SealError):
        open_class(same, egress, [SealedClass(ONE.shape, 1000, ONE.blobs[ingress])])


@pytest.mark.parametrize("cls", sorted(ONE.blobs))
def test_no_byte_can_be_changed(cls: C) -> None:
    blob = ONE.blobs[cls]
    for at in {0, 2, 5, 12, 30, 44, 47, 60, len(blob) // 2, len(blob) - 1}:
        changed = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        assert not opens(ONE.shape, cls, ocn_of(ONE, cls), changed), at
    assert not opens(ONE.shape, cls, ocn_of(ONE, cls), blob[:-1])
    assert not opens(ONE.shape, cls, ocn_of(ONE, cls), blob + b"\0")


def test_a_class_without_its_key_says_which() -> None:
    with pytest.raises(FormatError, match="timing"):
        open_class({}, C.TIMING, [SealedClass(ONE.shape, 0, ONE.blobs[C.TIMING])])


def test_a_class_of_other_rows_than_its_batch_is_refused() -> None:
    """Our own sealing never does it: a shape of 5,000 rows over chunks of 4,999."""
    from keys.sealing import seal
    from proxy.store import columns
    from proxy.store.batches import CLASS_FIELDS

    short = columns.encode(columns.prepare(TABLE, CLASS_FIELDS[C.TIMING]), 0, ROWS - 1)
    blob = seal(KEYS[C.TIMING], [short], ONE.shape.aad(C.TIMING))
    with pytest.raises(FormatError, match="number of rows"):
        open_class(KEYS, C.TIMING, [SealedClass(ONE.shape, 0, blob)])


def test_the_digest_covers_everything() -> None:
    digests = {ONE.digest()}
    for cls in ONE.blobs:
        without = {c: b for c, b in ONE.blobs.items() if c is not cls}
        changed = {**ONE.blobs, cls: ONE.blobs[cls] + b"\0"}
        digests |= {Sealed(ONE.shape, b, ONE.ocns).digest() for b in (without, changed)}
    for change in ({"rows": 1}, {"pair_id": 9}, {"object_id": 5}, {"month": 1}, {"last_start": 1}):
        digests.add(Sealed(replace(ONE.shape, **change), ONE.blobs, ONE.ocns).digest())
    digests |= {Sealed(ONE.shape, ONE.blobs, ocns).digest() for ocns in ((1001, 2000), (1000, 2001))}
    assert len(digests) == 1 + 2 * len(ONE.blobs) + 5 + 2


def test_classes_of_sides_and_shared_ones_are_all_classes() -> None:
    assert {*SHARED, *LEGS.values()} == set(CLASSES) == set(C)
    assert len(SHARED) + len(LEGS) == len(CLASSES) <= 15, "the bits of the classes fit a smallint"


def test_a_manifest_reads_back_and_ignores_a_remainder() -> None:
    parts = [(Part.BATCH, 5, b"a" * 32), (Part.SEGMENT, 0, b"b" * 32)]
    data = manifest(parts)
    assert list(parse_manifest(data)) == parts
    assert list(parse_manifest(data + b"\1rest")) == parts
