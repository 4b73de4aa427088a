"""What Prometheus reads at /metrics. No label tells a key, a tenant or a text."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # set before workers start: their counts are added up
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counts of one worker."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._shared = FOLDER in os.environ

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"ragops_{name}", help, labels, registry=self._registry)

        self.requests = counter("requests", "Requests that were answered", "route", "status")
        self.refused = counter("refused", "Requests that got no answer", "reason")
        self.queries = counter("queries", "Queries, those of batches too", "mode")
        self.switches = counter("release_switches", "Times that another release became live under the service")
        self.seconds = Histogram(
            "ragops_request_seconds", "From a request's first byte to the end of its answer", ("route",),
            registry=self._registry, buckets=SECONDS,
        )  # fmt: skip
        self.parts = Histogram(
            "ragops_search_seconds", "Parts of a search: embed (with waiting for others), search", ("part",),
            registry=self._registry, buckets=SECONDS,
        )  # fmt: skip
        self.together = Histogram(
            "ragops_embedded_together", "Queries that were embedded at once", registry=self._registry,
            buckets=(1, 2, 4, 8, 16, 32),
        )  # fmt: skip
        self.running = Gauge(
            "ragops_requests_running", "Requests at this moment", registry=self._registry, multiprocess_mode="livesum"
        )
        self.release = Gauge(
            "ragops_release", "Number of the release that is served", registry=self._registry,
            multiprocess_mode="livemin",
        )  # fmt: skip

    def text(self) -> bytes:
        """In Prometheus' own form, of all workers."""
        registry = self._registry
        if self._shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def close(self) -> None:
        if self._shared:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]
