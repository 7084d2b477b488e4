"""Numbers for Prometheus. Labels have few values: no device, no segment is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 10)
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")


class Metrics:
    """Those of one application. `look` gives the overview, or nothing while there is no store."""

    def __init__(
        self, look: Callable[[], Mapping[str, Any] | None], streams: Callable[[], int]
    ) -> None:
        self._look, self._streams = look, streams
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._requests = Histogram(
            "vitconformer_http_request_duration_seconds", "Time until an answer was sent",
            ("method", "route", "status_class"), buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route or "none", f"{status // 100}xx").observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing in advance: nobody is to ask the store when an application is made."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """For the registry."""
        yield _gauge("event_streams", "Clients that listen to events", self._streams())
        found = self._look()
        yield _gauge("store_up", "Whether the store answers", found is not None)
        if found is None:
            return
        for name, label, help in (
            ("devices_by_state", "state", "Devices by what was last heard of them"),
            ("devices_by_model", "model_version", "Devices by the model they run"),
        ):
            family = GaugeMetricFamily(f"vitconformer_{name}", help, labels=[label])
            for value, count in found[name].items():
                family.add_metric([value], count)
            yield family
        for name, help in (
            ("devices", "Known devices"),
            ("segments", "Stored segments"),
            ("labels", "Stored labels"),
            ("open_alarms", "Alarms that are open"),
            ("unanswered_erasures", "Devices that have not answered an erase request"),
        ):
            yield _gauge(name, help, found[name])
        ingest = found["ingest"]
        yield _gauge("outbox_messages", "Messages for the broker", ingest["to_publish"])
        yield _gauge("dead_letters", "What was refused for good", ingest["dead_letters"])
        if ingest["last_segment_ms"] is not None:
            yield _gauge(
                "last_segment_timestamp_seconds", "When the newest segment arrived",
                ingest["last_segment_ms"] / 1000,
            )  # fmt: skip


def _gauge(name: str, help: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"vitconformer_{name}", help, value=float(value))
