"""The device's metrics for Prometheus, on loopback unless agent.toml says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edge_runtime.agent.config import TelemetrySettings
from edge_runtime.agent.telemetry import Tally, Window

PREFIX = "vitconformer"
_HISTOGRAMS = {
    "confidence": "calibrated confidence of utterances",
    "word_confidence": "calibrated confidence of words",
    "deletion_score": "suspicion that words are missing from an utterance",
    "first_word_s": "seconds from the start of a word to its first partial",
    "final_s": "seconds from the end of an utterance to its final",
}
_COUNTERS = {
    "utterances": "utterances that ended",
    "speech_s": "seconds of speech in them",
    "audio_s": "seconds of sound heard",
    "busy_s": "seconds of processing it took",
    "unsampled": "utterances that the random sample could not have reached",
    "crashes": "failures of the recogniser",
}


class Exporter:
    """Answers on a thread of its own until it is closed."""

    def __init__(
        self,
        settings: TelemetrySettings,
        totals: Callable[[], Window],
        gauges: Callable[[], Mapping[str, float]],
    ) -> None:
        """Raises OSError where nothing can listen."""
        from prometheus_client import CollectorRegistry, start_http_server

        self._totals = totals
        self._gauges = gauges
        registry = CollectorRegistry()
        registry.register(self)
        self._server, self._thread = start_http_server(
            settings.prometheus_port, settings.prometheus_address, registry
        )
        self.port: int = self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def collect(self) -> Iterator[Any]:
        """As prometheus_client wants it."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        total = self._totals()
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=getattr(total, name))
        for name, text in _HISTOGRAMS.items():
            yield _histogram(f"{PREFIX}_{name}", text, getattr(total, name))
        for name, label in (("selected", "reason"), ("vetoed", "rule")):
            family = CounterMetricFamily(f"{PREFIX}_{name}", f"utterances {name}", labels=[label])
            for key, count in getattr(total, name).items():
                family.add_metric([key], count)
            yield family
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"{PREFIX}_{name}", name.replace("_", " "), value=value)


def _histogram(name: str, text: str, tally: Tally) -> Any:
    from prometheus_client.core import HistogramMetricFamily

    buckets, seen = [], 0
    for bound, count in zip((*tally.bounds, float("inf")), tally.counts, strict=True):
        seen += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), seen))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=tally.total)
