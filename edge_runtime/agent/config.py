"""`agent.toml`: everything that can be set about the agent, a table for each class.

    settings = read_agent_settings(Path("agent.toml"))

The comment beside a field is its line in docs/agent.md. Paths are relative to the file. Every value
is checked here: what the agent starts with cannot turn out wrong later.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edge_runtime.agent.sampling import SamplingPolicy
from edge_runtime.contract.topics import check_device
from edge_runtime.errors import ConfigError, ContractError
from edge_runtime.ota.settings import UpdateSettings
from edge_runtime.precision import AUTO
from edge_runtime.settings import read_settings

T = TypeVar("T")


def _within(table: str, name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{table}: {name}: {low:g} to {high:g}, not {value:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """Who and where the device is."""

    state: Path  # directory of all that the agent keeps; only its user may read it
    name: str = ""  # only for a broker without certificates; else it is the certificate's
    hardware: str = ""  # in words, for people who look at the fleet

    def __post_init__(self) -> None:
        try:
            if self.name:
                check_device(self.name)
        except ContractError as error:
            raise ConfigError(f"device: name: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognizerSettings:
    """The model and how it is run."""

    bundle: Path  # the bundle; with updates the one that the device was delivered with
    chunk_ms: int | None = None  # ms of audio per step; none: the bundle decides
    precision: str = AUTO  # one of the bundle's models, or "auto"
    backend: str = "onnxruntime"  # or "jetson", or "tensorrt"
    threads: int = 1  # of the engine
    beam: int = 0  # hypotheses of the beam search; 0: greedy
    lm: Path | None = None  # word language model for the beam search, ARPA or KenLM
    lm_weight: float = 0.5  # of that language model
    hotwords: tuple[str, ...] = ()  # phrases to favour, PHRASE or PHRASE:BOOST; need a beam
    alternatives: int = 0  # other readings that a segment carries; need a beam, and cost accuracy
    language: str = ""  # of the speech, BCP 47, for the cloud

    def __post_init__(self) -> None:
        _within("recognizer", "threads", self.threads, 1, 256)
        _within("recognizer", "beam", self.beam, 0, 1024)
        _within("recognizer", "alternatives", self.alternatives, 0, 50)
        if not self.beam and (self.lm or self.hotwords or self.alternatives):
            raise ConfigError("recognizer: lm, hotwords and alternatives need a beam, such as 24")


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSettings:
    """Where the sound comes from."""

    microphone: str = ""  # its number or a part of its name; empty: the system's
    files: tuple[Path, ...] = ()  # files or folders to play instead, as a virtual microphone
    speed: float = 1.0  # of files, in times of real time; 0: as fast as possible
    repeat: bool = False  # the files without end

    def __post_init__(self) -> None:
        _within("audio", "speed", self.speed, 0, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """The MQTT broker of the fleet."""

    host: str  # its name, as its certificate has it
    port: int = 8883  # for devices
    ca: Path | None = None  # certificates to trust, PEM; none: no TLS, for tests only
    certificate: Path | None = None  # of the device, PEM; its name is the device's
    key: Path | None = None  # of the certificate, PEM
    enrolment: str = ""  # URL of the server that renews the certificate; empty: it is not renewed
    keepalive_s: int = 120  # a ping as often keeps the connection through NATs
    connect_timeout_s: float = 10.0  # for TCP and TLS together with the broker's answer

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("broker: host: is empty")
        _within("broker", "port", self.port, 1, 65_535)
        _within("broker", "keepalive_s", self.keepalive_s, 5, 65_535)
        _within("broker", "connect_timeout_s", self.connect_timeout_s, 0.1, 600)
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("broker: certificate and key: give both or none")
        if self.certificate is not None and self.ca is None:
            raise ConfigError("broker: ca: is missing: a certificate needs TLS")
        if not self.enrolment:
            return
        if not self.enrolment.startswith("https://"):
            raise ConfigError(f"broker: enrolment: expected https://..., not {self.enrolment!r}")
        file = self.certificate
        if file is None or file != self.key or file.name != "identity.pem":
            raise ConfigError(
                "broker: enrolment: needs certificate and key to be the file identity.pem that"
                " `vitconformer agent enrol` wrote"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentSettings:
    """Under what may be recorded for upload, besides what the cloud says."""

    file: Path | None = None  # consent given on the device itself; uploads end when it is deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingSettings:
    """How a chosen utterance is recorded."""

    margin_s: float = 0.3  # of audio before its first and after its last word
    flac_share: float = 0.05  # of segments without loss, for what Opus would hide
    redactor: str = ""  # "package.module:function" or an entry point's name, asked about each
    decisions: int = 10_000  # how many `agent explain` remembers

    def __post_init__(self) -> None:
        _within("recording", "margin_s", self.margin_s, 0, 5)
        _within("recording", "flac_share", self.flac_share, 0, 1)
        _within("recording", "decisions", self.decisions, 0, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSettings:
    """What waits for the cloud."""

    quota_mb: int = 200  # MB of segments; the least valuable make room
    retention_days: int = 14  # how long one waits at most; a consent may say less
    reserve_mb: int = 50  # MB of disk that stay free: below, nothing new is kept

    def __post_init__(self) -> None:
        _within("outbox", "quota_mb", self.quota_mb, 1, 1_000_000)
        _within("outbox", "retention_days", self.retention_days, 1, 3650)
        _within("outbox", "reserve_mb", self.reserve_mb, 0, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """What the device says of itself."""

    interval_s: int = 900  # between reports to the cloud
    prometheus: bool = False  # whether metrics can be fetched from the device
    prometheus_address: str = "127.0.0.1"  # other than this, the whole network may read them
    prometheus_port: int = 9464  # where they can be fetched; 0: any that is free

    def __post_init__(self) -> None:
        _within("telemetry", "interval_s", self.interval_s, 1, 86_400)
        _within("telemetry", "prometheus_port", self.prometheus_port, 0, 65_535)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """The whole file."""

    device: DeviceSettings
    recognizer: RecognizerSettings
    audio: AudioSettings = field(default_factory=AudioSettings)
    broker: BrokerSettings | None = None  # none: nothing leaves, the outbox keeps it
    consent: ConsentSettings = field(default_factory=ConsentSettings)
    sampling: SamplingPolicy = field(default_factory=SamplingPolicy)
    recording: RecordingSettings = field(default_factory=RecordingSettings)
    outbox: OutboxSettings = field(default_factory=OutboxSettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    update: UpdateSettings | None = None  # none: the bundle stays as it is

    def __post_init__(self) -> None:
        if self.broker is not None and self.broker.certificate is None and not self.device.name:
            raise ConfigError("device: name: is missing: without a certificate nobody else has it")


def read_agent_settings(path: Path) -> AgentSettings:
    """The settings in a file. Raises ConfigError naming file, key and what was expected."""
    settings = read_settings(AgentSettings, path)
    return anchored(settings, path.absolute().parent)


def anchored(settings: T, folder: Path) -> T:
    """The same with every relative path below `folder`."""

    def move(value: Any) -> Any:
        if isinstance(value, Path):
            return folder / value
        if isinstance(value, tuple):
            return tuple(move(each) for each in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = (entry.name for entry in dataclasses.fields(value) if entry.init)
            return dataclasses.replace(value, **{n: move(getattr(value, n)) for n in fields})
        return value

    moved: T = move(settings)
    return moved
