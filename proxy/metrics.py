"""Every metric the gateway exports, in one place (Prometheus naming; base units; bounded labels).

A label never holds a number, a case, a token or anything a client typed. ``client`` is the id the registry gave.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Count
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

# When a series was first counted is, to the microsecond, when somebody did something for the first time.
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)  # memory, CPU, open files

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Bulk(Histogram):
    """A histogram without labels that takes many values at once."""

    def observe_many(self, values: Sequence[float]) -> None:
        """As ``observe`` of each: the sum and each bucket are added to once, a tenth of the cost."""
        self._sum.inc(sum(values))
        for bucket, count in Count([bisect_left(self._upper_bounds, value) for value in values]).items():
            self._buckets[bucket].inc(count)


REQUESTS = Counter("tollgate_http_requests", "HTTP requests answered", ("route", "method", "status"), registry=REGISTRY)
REQUEST_SECONDS = Histogram(
    "tollgate_http_request_duration_seconds", "Time to the end of the answer", ("route",), registry=REGISTRY
)
CONNECTIONS = Gauge("tollgate_http_connections", "Open connections", ("listener",), registry=REGISTRY)
CONNECTIONS_REFUSED = Counter(
    "tollgate_http_connections_refused",
    "Connections broken off because there were too many",
    ("listener",),
    registry=REGISTRY,
)
TOKENS = Counter("tollgate_tokens_issued", "Access tokens issued", ("client",), registry=REGISTRY)
STAFF_TOKENS = Counter("tollgate_staff_tokens_issued", "Access tokens issued to staff", registry=REGISTRY)
TOKEN_REFUSALS = Counter("tollgate_token_refusals", "Token requests refused", ("reason",), registry=REGISTRY)
AUTH_REFUSALS = Counter(
    "tollgate_auth_refusals", "API requests refused for their credentials", ("reason",), registry=REGISTRY
)
DECISIONS = Counter("tollgate_decisions", "Access decisions", ("purpose", "decision", "reason"), registry=REGISTRY)
DISCLOSED_ROWS = Counter("tollgate_disclosed_rows", "Records disclosed", ("purpose", "client"), registry=REGISTRY)
DISCLOSED_CLASS_ROWS = Counter(
    "tollgate_disclosed_class_rows", "Records disclosed, by disclosure class", ("purpose", "class"), registry=REGISTRY
)
DISCLOSED_BYTES = Counter(
    "tollgate_disclosed_bytes", "Bytes sent before content coding", ("purpose", "client"), registry=REGISTRY
)
OPEN_STREAMS = Gauge("tollgate_open_streams", "Answers being streamed", registry=REGISTRY)
STREAMS_CUT = Counter("tollgate_streams_cut", "Answers that ended early", ("reason",), registry=REGISTRY)
LOG_APPEND_SECONDS = Bulk(
    "tollgate_log_append_duration_seconds", "Time until an entry is durable", buckets=_FAST, registry=REGISTRY
)
LOG_GROUP = Histogram(
    "tollgate_log_group_entries",
    "Entries committed together",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    registry=REGISTRY,
)
LOG_FAILURES = Counter("tollgate_log_append_failures", "Entries that could not be made durable", registry=REGISTRY)
LOG_SIZE = Gauge("tollgate_log_entries", "Entries in the access log as last seen", registry=REGISTRY)
LOG_HALTED = Gauge("tollgate_log_halted", "1 where the access log was halted: nothing is disclosed", registry=REGISTRY)
LOG_CHECKPOINTS = Counter("tollgate_log_checkpoints", "Checkpoints signed by this process", registry=REGISTRY)
LOG_PUBLISH_FAILURES = Counter("tollgate_log_publish_failures", "Failed rounds of the publisher", registry=REGISTRY)
LOG_PUBLISHED = Gauge("tollgate_log_published_entries", "Size of the checkpoint that is served", registry=REGISTRY)
LOG_PUBLISHED_AT = Gauge(
    "tollgate_log_published_timestamp_seconds", "When a new checkpoint was last served", registry=REGISTRY
)
LOG_WITNESS_REQUESTS = Counter(
    "tollgate_log_witness_requests", "Cosignatures asked of witnesses", ("witness", "outcome"), registry=REGISTRY
)
LOG_WITNESS_CONTRADICTIONS = Counter(
    "tollgate_log_witness_contradictions", "Witnesses that hold another tree", ("witness",), registry=REGISTRY
)
LOG_WITNESS_LAG = Gauge(
    "tollgate_log_witness_lag_seconds",
    "Age of the oldest entry a witness has not cosigned",
    ("witness",),
    registry=REGISTRY,
)
LOG_UNPUBLISHED = Gauge("tollgate_log_unpublished_seconds", "Age of the oldest entry not published", registry=REGISTRY)
KEY_OPERATIONS = Counter(
    "tollgate_key_operations", "Calls to the key provider", ("operation", "outcome"), registry=REGISTRY
)
INGEST_LINES = Counter("tollgate_ingest_lines", "Lines ingested", ("profile", "outcome"), registry=REGISTRY)
ROLLED_ROWS = Counter("tollgate_rolled_rows", "Records rolled into batches", registry=REGISTRY)
STAGED_ROWS = Gauge("tollgate_staged_rows", "Records staged and not yet rolled", registry=REGISTRY)
OPERATORS = Gauge("tollgate_operators", "Operators who can act: trained, not suspended", registry=REGISTRY)
HOLDS = Gauge("tollgate_holds", "Holds of cases that may be known of, that hold", registry=REGISTRY)
HOLDS_DUE = Gauge("tollgate_holds_due", "Of these, those that end within 14 days", registry=REGISTRY)
HOLDS_FAILED = Gauge(
    "tollgate_holds_failed",
    "Preservations of such cases whose copies all failed, and none is being made",
    registry=REGISTRY,
)
CASES_DUE = Gauge("tollgate_cases_due", "What open cases wait for; without secret cases", ("kind",), registry=REGISTRY)
CASES_OVERDUE = Gauge(
    "tollgate_cases_overdue", "What open cases waited for too long; without secret cases", ("kind",), registry=REGISTRY
)
