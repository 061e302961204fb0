"""A histogram that takes many values at once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from proxy.metrics import Bulk

BUCKETS = (0.001, 0.01, 0.1, 1.0)


@settings(deadline=None, database=None)
@given(st.lists(st.sampled_from([0.0, 0.0005, 0.001, 0.002, 0.01, 0.5, 1.0, 1.5, 100.0]), max_size=50))
def test_many_at_once_are_each_of_them(values: list[float]) -> None:
    pages = []
    for kind in (Histogram, Bulk):
        registry = CollectorRegistry()
        made = kind("waited", "How long", buckets=BUCKETS, registry=registry)
        if isinstance(made, Bulk):
            made.observe_many(values)
        else:
            for value in values:
                made.observe(value)
        lines = generate_latest(registry).decode().splitlines()
        pages.append([line for line in lines if "_created" not in line and "_sum" not in line])
        total = next(float(line.split()[1]) for line in lines if line.startswith("waited_sum"))
        assert abs(total - sum(values)) < 1e-9
    assert pages[0] == pages[1]
