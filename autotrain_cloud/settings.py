"""`cloud.toml`: the settings of everything that runs beside the fleet, a dataclass for each table.

docs/cloud.md says what each of them is for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from autotrain_cloud.monitor.settings import MonitorSettings
from edge_runtime.errors import ConfigError
from edge_runtime.settings import read_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """[store]"""

    url: str = "sqlite:///autotrain/store.db"  # or postgresql+psycopg://...
    blobs: str = "autotrain/blobs"  # a folder, or a URL of fsspec: s3://bucket/audio


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """[broker]"""

    host: str = "localhost"
    port: int = 8883
    ca: Path | None = None  # without it the connection is not encrypted
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.port < 65_536:
            raise ConfigError(f"port: {self.port} (expected 1 to 65535)")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("certificate and key: one without the other")
        if self.certificate is not None and self.ca is None:
            raise ConfigError("ca: is missing: a certificate is only shown to a known broker")


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSettings:
    """[ingest]"""

    worker: str = "ingest-1"  # its client id: another for each worker, the same at every start
    group: str = ""  # workers of one group share the work; empty: a secret name in the store
    batch: int = 500  # messages in one transaction, at most
    receive_maximum: int = 1000  # messages that the broker sends ahead of the store
    check_consent: bool = True  # refuse what was recorded under a consent never granted
    register_devices: bool = True  # take in whoever has a certificate; no: only who is known
    segments_per_minute: float | None = None  # of one device

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= 1000:
            raise ConfigError(f"batch: {self.batch} (expected 1 to 1000)")
        if not 1 <= self.receive_maximum <= 1000:
            raise ConfigError(f"receive_maximum: {self.receive_maximum} (expected 1 to 1000)")
        if not self.worker or len(self.worker) > 64:
            raise ConfigError("worker: expected a name of 1 to 64 characters")
        if self.segments_per_minute is not None and self.segments_per_minute <= 0:
            raise ConfigError("segments_per_minute: expected more than 0, or nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """[retention]: days that things are kept."""

    selected_days: int = 365  # segments chosen for what is in them
    random_days: int = 730  # segments of the random sample: what is measured on
    telemetry_days: int = 400
    dead_letter_days: int = 90
    dead_letter_megabytes: int = 1024  # then the oldest go

    def __post_init__(self) -> None:
        for name in ("selected_days", "random_days", "telemetry_days", "dead_letter_days"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} (expected 1 or more)")

    def days_of(self, retention: str) -> int:
        """Days that a segment of this retention class is kept."""
        return self.random_days if retention == "random" else self.selected_days


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """[rollout]: how what was published reaches the fleet."""

    shares: tuple[float, ...] = (0.01, 0.05, 0.25, 1.0)  # of the fleet, stage by stage
    soak_minutes: float = 24 * 60.0  # at least, in each stage
    holdback: float = 0.05  # of the fleet, kept for comparison until the last stage
    devices_per_minute: float = 500.0
    look_minutes: float = 60.0  # of telemetry in one comparison with the control group
    least_looks: int = 1  # comparisons in each stage; 0: fleets too small to compare
    timeout_minutes: float = 120.0  # of an update; then it has failed
    approvals: int = 0  # people who must agree before it begins

    def __post_init__(self) -> None:
        for name in ("soak_minutes", "look_minutes", "timeout_minutes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: {getattr(self, name)} (expected 0 or more)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """[api]"""

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: Path | None = None  # without it only this machine may ask
    key: Path | None = None
    behind_proxy: bool = False  # one that does the TLS; then any address may be listened on
    pipeline: Path | None = None  # pipeline.toml: runs can be seen and asked for
    ledger: Path | None = None  # of promotions
    body_kilobytes: int = 1024  # of a request, at most
    streams: int = 100  # of events at a time
    poll_s: float = 1.0  # between two looks for new events
    heartbeat_s: float = 15.0
    query_s: float = 10.0  # a query is given up after that; PostgreSQL only
    open_metrics: bool = False  # /metrics without a token

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65_536:
            raise ConfigError(f"port: {self.port} (expected 0 to 65535)")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("certificate and key: one without the other")
        for name in ("body_kilobytes", "streams", "poll_s", "heartbeat_s", "query_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: {getattr(self, name)} (expected more than 0)")
        if not (self.certificate or self.behind_proxy or self.host in LOOPBACK):
            raise ConfigError(
                f"host: {self.host}: tokens would cross the network unencrypted (expected"
                " certificate and key, or behind_proxy = true, or 127.0.0.1)"
            )


LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSettings:
    """The whole file."""

    store: StoreSettings = field(default_factory=StoreSettings)
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    ingest: IngestSettings = field(default_factory=IngestSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    api: ApiSettings = field(default_factory=ApiSettings)


def read_cloud_settings(path: Path) -> CloudSettings:
    """Raises ConfigError naming file, key and what was expected."""
    return read_settings(CloudSettings, path)
