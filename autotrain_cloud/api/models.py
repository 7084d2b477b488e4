"""What goes over the wire. Times are milliseconds since 1970, UTC, unless a name ends in `_s`."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from edge_runtime.contract.topics import check_device
from edge_runtime.errors import ContractError

T = TypeVar("T")
_INT64 = (1 << 63) - 1


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain the character NUL")
    return text


def _device(name: str) -> str:
    try:
        return check_device(name)
    except ContractError as error:
        raise ValueError(str(error)) from error


Text = Annotated[str, StringConstraints(max_length=10_000), AfterValidator(_without_nul)]
Short = Annotated[
    str, StringConstraints(min_length=1, max_length=200), AfterValidator(_without_nul)
]
Reason = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_without_nul)]
DeviceName = Annotated[str, AfterValidator(_device)]
Ms = Annotated[int, Field(ge=0, le=_INT64)]
Count = Annotated[int, Field(ge=0, le=_INT64)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Decision = Literal["none", "keep", "review", "drop"]
Limit = Annotated[int, Field(ge=1, le=500, description="rows of a page, at most")]


class Model(BaseModel):
    """Read from rows; nothing unknown is accepted."""

    model_config = ConfigDict(from_attributes=True, extra="ignore", protected_namespaces=())


class Asked(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Page(Model, Generic[T]):
    """Rows, and the cursor of the page after them; null: this is the last one."""

    items: list[T]
    next: str | None = None


class Problem(BaseModel):
    """What went wrong (RFC 9457). `detail` says what to do."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[dict[str, Any]] | None = None


class Me(Model):
    name: str
    role: Literal["viewer", "operator", "admin"]


class Ingest(Model):
    last_segment_ms: int | None
    last_telemetry_ms: int | None
    to_publish: int = Field(description="messages that wait for the broker")
    dead_letters: int


class RolloutRow(Model):
    id: str
    state: str
    plan: dict[str, Any]
    bundle: str
    previous: str
    created_ms: int
    changed_ms: int


class Overview(Model):
    """The fleet and what is going on. Counts may be some seconds old, see `at_ms`; those of all
    segments and labels older, see `counted_ms`.
    """

    at_ms: int
    counted_ms: int = Field(description="when `segments` and `labels` were counted")
    devices: int
    devices_by_state: dict[str, int]
    devices_by_model: dict[str, int]
    segments: int
    segments_today: int
    labels: int
    to_review: int = Field(description="labels that wait for a person")
    datasets: int
    models: int
    open_alarms: int
    unanswered_erasures: int
    ingest: Ingest
    newest_event: int
    runs_under_way: list[str] | None = Field(description="null: this server has no pipeline")
    rollout: RolloutRow | None = Field(description="the one under way")


class Device(Model):
    name: str
    state: str = Field(description="unknown, online, offline or stopped")
    first_seen_ms: int
    last_seen_ms: int
    connected_ms: int | None
    clock_is_set: bool | None
    agent: str | None
    hardware: str | None
    time_zone: str | None
    consent: str | None = Field(description="the consent it last reported")
    model_name: str | None
    model_version: str | None
    model_counter: int | None = Field(description="release counter that it says it runs")
    model_precision: str | None
    assigned_counter: int | None = Field(description="release counter that it is to run")
    slice: str | None


class ConsentRow(Model):
    id: str
    version: int
    granted: bool
    from_ms: int
    until_ms: int | None
    purposes: list[str]
    retention_days: int
    created_ms: int


class TelemetryPoint(Model):
    """One report; means of what it counted, null where nothing was."""

    session: int
    sequence: int
    received_ms: int
    start_ms: int
    end_ms: int
    model_version: str
    utterances: int
    speech_s: float
    confidence: float | None
    word_confidence: float | None
    deletion_score: float | None
    first_word_s: float | None
    final_s: float | None
    real_time_factor: float
    queued: int
    queued_bytes: int
    dead: int
    crashes: int
    gauges: dict[str, Any]


class UpdateRow(Model):
    session: int
    sequence: int
    received_ms: int
    at_ms: int
    attempt: str
    target: str
    target_counter: int
    state: str
    running_version: str | None
    running_counter: int | None
    progress: float | None
    error: str


class Alarm(Model):
    id: str
    level: str = Field(description="fleet, slice or device; the last never starts a retraining")
    name: str
    model: str
    statistic: str
    change_ms: int = Field(description="when it most likely began")
    opened_ms: int
    closed_ms: int | None
    closed_reason: str
    text: str = Field(description="the alarm in words")
    run: str = Field(description="of the pipeline, that it started")


class AlarmDetail(Alarm):
    facts: dict[str, Any]


class DeviceDetail(Device):
    consents: list[ConsentRow]
    alarms: list[Alarm] = Field(description="open ones of this device")
    telemetry: list[TelemetryPoint]
    updates: list[UpdateRow]


class SetSlice(Asked):
    slice: Short = Field(description="language, room, microphone, whatever tells devices apart")


class Slice(Model):
    slice: str
    devices: int


class LabelRow(Model):
    id: str
    segment: str
    source: str = Field(description="teacher, human or source")
    author: str
    author_version: str
    text: str
    words: list[Any]
    confidence: float | None
    language: str
    accepted: bool
    decision: Decision
    provenance: dict[str, Any]
    created_ms: int


class Segment(Model):
    id: str
    device: str
    slice: str | None
    captured_ms: int
    received_ms: int
    duration_s: float
    model_name: str
    model_version: str
    text: str = Field(description="as the device understood it")
    confidence: float
    deletion_score: float
    language: str
    reasons: list[str]
    consent: str
    redacted: bool
    retention: str
    expires_ms: int
    decision: Decision = "none"
    label_text: str | None = None
    label_source: str | None = None


class DifferenceStep(Model):
    """One word of the alignment. Times from the start of the sound, where the device gave them."""

    kind: Literal["equal", "substitution", "deletion", "insertion"]
    reference: str | None = Field(description="of the label")
    hypothesis: str | None = Field(description="of the device")
    confidence: float | None = None
    start_s: float | None = None
    end_s: float | None = None


class Difference(Model):
    """Where the device differs from a label; words are compared without case and punctuation."""

    label: str
    errors: int
    reference_words: int
    word_error_rate: float | None = Field(description="null: the label has no words")
    steps: list[DifferenceStep]


class Origin(Model):
    """What came of it."""

    datasets: list[str]
    models: list[tuple[str, str]] = Field(description="name and version")


class SegmentDetail(Segment):
    session: int
    sequence: int
    clock_is_set: bool
    sample_rate: int
    codec: str
    words: list[dict[str, Any]]
    alternatives: list[dict[str, Any]]
    inclusion_probability: float
    random_probability: float
    labels: list[LabelRow]
    difference: Difference | None = Field(description="to the newest label that has words")
    lineage: Origin


class SubmitLabel(Asked):
    verdict: Literal["text", "unusable"] = Field(
        description="text: this is what was said; unusable: nothing can be learned from it"
    )
    text: Text = ""


class ReviewItem(Model):
    """A label that a person should look at."""

    priority: float = Field(description="0 to 1: how much an answer would tell")
    why: str = Field(description="the priority in words")
    leased_by: str | None = Field(None, description="who has it for now")
    leased_until_ms: int | None = None

    label: str
    segment: str
    created_ms: int
    label_text: str
    label_confidence: float | None
    author: str
    provenance: dict[str, Any]
    device: str
    slice: str | None
    text: str = Field(description="as the device understood it")
    confidence: float
    language: str
    duration_s: float
    model_version: str
    captured_ms: int


class Lease(Asked):
    count: Annotated[int, Field(ge=1, le=50)] = 10
    minutes: Annotated[int, Field(ge=1, le=120)] = 15
    slice: Short | None = None


class Leased(Model):
    items: list[ReviewItem]


class Dataset(Model):
    id: str
    name: str
    parents: list[str]
    manifest: str
    created_ms: int
    erased: int = Field(description="times that members were erased from it since it was made")


class DatasetDetail(Dataset):
    recipe: dict[str, Any]
    splits: dict[str, int]
    models: list[tuple[str, str]]


class Member(Model):
    segment: str
    label: str | None
    split: str
    weight: float
    device: str | None
    text: str | None
    confidence: float | None
    duration_s: float | None
    label_text: str | None
    label_source: str | None


class ModelRow(Model):
    name: str
    version: str
    counter: int
    parent: str | None
    manifest: str
    state: str
    metrics: dict[str, Any]
    created_ms: int
    devices: int = Field(description="that say they run it")


class ModelDetail(ModelRow):
    datasets: list[str]
    children: list[str] = Field(description="versions that grew from it")


class Step(Model):
    name: str
    state: str
    folder: str
    again: bool = Field(description="it was made before, by this run or another")
    started: float
    finished: float
    cpu_seconds: float
    tries: int
    reason: str


class Run(Model):
    """Times are seconds since 1970."""

    id: str
    state: str
    attempt: int
    reason: str
    started: float
    changed: float
    approved_by: str
    why: str
    created: float
    cpu_seconds: float
    steps: list[Step]


class RunDetail(Run):
    inputs: dict[str, Any]
    settings: dict[str, Any]
    code: str


class StartRun(Asked):
    why: Short
    slice: Annotated[str, StringConstraints(max_length=200), AfterValidator(_without_nul)] = ""
    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] | None = Field(
        None, description="the same twice is one run"
    )


class Judge(Asked):
    publish: bool = Field(description="whether the run may publish its model")
    why: Reason = ""


class Because(Asked):
    reason: Reason = ""


class RolloutEntry(Model):
    number: int
    at_ms: int
    who: str
    reason: str
    type: str
    event: dict[str, Any]


class Progress(Model):
    """How far it is."""

    stage: int
    stages: list[float] = Field(description="shares of the fleet")
    approved_by: list[str]
    devices: int
    by_status: dict[str, int] = Field(description="of devices that were given a release")
    reason: str = Field(description="of the newest decision")
    to_republish: bool


class RolloutDetail(RolloutRow):
    progress: Progress


class RolloutDevice(Model):
    device: str
    counter: int
    status: str
    since_ms: int


class LedgerEntry(Model):
    number: int
    at: str
    who: str
    kind: str
    body: dict[str, Any]
    previous: str
    hash: str


class Ledger(Model):
    intact: bool = Field(description="every entry is as it was written")
    problem: str
    head: str
    entries: list[LedgerEntry] = Field(description="the newest first")
    total: int


class AskErasure(Asked):
    segments: Annotated[list[Short], Field(max_length=10_000)] = []
    consents: Annotated[list[Short], Field(max_length=1000)] = []
    devices: Annotated[list[DeviceName], Field(max_length=1000)] = []
    reason: Reason = ""


class Erasure(Model):
    id: str
    created_ms: int
    reason: str
    requested: dict[str, Any]
    segments: int = Field(description="deleted here")
    lineage: Origin = Field(description="data sets they were in, models trained on them")


class Answer(Model):
    device: str
    answered_ms: int | None
    segments: int | None


class ErasureDetail(Erasure):
    devices: list[Answer]


class GrantConsent(Asked):
    id: Short
    days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    purposes: Annotated[list[Short], Field(min_length=1, max_length=10)] = [
        "training", "monitoring",
    ]  # fmt: skip
    retention_days: Annotated[int, Field(ge=0, le=3650)] = 14


class Event(Model):
    number: int
    at_ms: int
    kind: str
    subject: str
    text: str
    facts: dict[str, Any]


class Events(Model):
    items: list[Event]
    next: int = Field(description="the number to ask with for what comes after")


class Health(Model):
    status: Literal["ok"]
