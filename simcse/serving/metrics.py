"""What the service counts, in Prometheus's words; each app has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2.5, 5, 10, 30)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Counters and histograms of one service.

    Args:
        waiting: gives the number of texts in the queue.
        filters: gives the number of filters in theirs.
        texts: gives the number of texts in the index, NaN where it cannot be read.
    """

    def __init__(self, waiting: Callable[[], float], filters: Callable[[], float], texts: Callable[[], float]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        self.requests = Counter(
            "simcse_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "simcse_request_seconds", "Time to the response.", ["path"], buckets=SECONDS, registry=self.registry
        )
        self.batch_texts = Histogram("simcse_batch_texts", "Texts in a batch.", buckets=TEXTS, registry=self.registry)
        self.encode_seconds = Histogram(
            "simcse_encode_seconds", "Time to encode a batch.", buckets=SECONDS, registry=self.registry
        )
        self.search_seconds = Histogram(
            "simcse_search_seconds", "Time to search for a batch.", buckets=SECONDS, registry=self.registry
        )
        self.filter_seconds = Histogram(
            "simcse_filter_seconds",
            "Time to find the rows of a batch's filters.",
            buckets=SECONDS,
            registry=self.registry,
        )
        Gauge("simcse_queue_texts", "Texts that wait.", registry=self.registry).set_function(waiting)
        Gauge("simcse_queue_filters", "Filters that wait.", registry=self.registry).set_function(filters)
        Gauge("simcse_index_texts", "Texts in the index.", registry=self.registry).set_function(texts)

    def __bytes__(self) -> bytes:
        """The text that a Prometheus server reads."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self.registry))
