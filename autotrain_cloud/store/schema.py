"""The store's tables, as queries are built from them. migrations.py makes them; a test compares.

Times are milliseconds since 1970, UTC; digests are SHA-256 in lower-case hex. A column with the
name of a message's field holds that field, see docs/protocol.md.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import JSONB

from edge_runtime.contract.codec import pack, unpack


class Packed(TypeDecorator[Any]):
    """Plain data as CBOR: for what arrives in it and is only ever read as a whole."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes:
        return value if isinstance(value, bytes) else pack(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else unpack(bytes(value))


metadata = MetaData()
_JSON = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

devices = Table(
    "devices",
    metadata,
    Column("name", Text, primary_key=True),
    Column("first_seen_ms", BigInteger, nullable=False),
    Column("last_seen_ms", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("session", BigInteger),
    Column("connected_ms", BigInteger),
    Column("clock_is_set", Boolean),
    Column("agent", Text),
    Column("hardware", Text),
    Column("time_zone", Text),
    Column("consent", Text),
    Column("model_name", Text),
    Column("model_version", Text),
    Column("model_counter", BigInteger),
    Column("model_manifest", Text),
    Column("model_precision", Text),
)
secrets = Table(
    "secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
blobs = Table(
    "blobs",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("pack", Text, nullable=False),
    Column("start", BigInteger, nullable=False),
)
holes = Table(
    "holes",
    metadata,
    Column("pack", Text, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("size", BigInteger, nullable=False),
)
segments = Table(
    "segments",
    metadata,
    Column("id", Text, primary_key=True),
    Column("device", Text, nullable=False),
    Column("session", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("captured_ms", BigInteger, nullable=False),
    Column("clock_is_set", Boolean, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("duration_s", Double, nullable=False),
    Column("sample_rate", BigInteger, nullable=False),
    Column("codec", Text, nullable=False),
    Column("audio", Text, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("model_counter", BigInteger, nullable=False),
    Column("model_manifest", Text, nullable=False),
    Column("model_precision", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("alternatives", _JSON, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("deletion_score", Double, nullable=False),
    Column("language", Text, nullable=False),
    Column("reasons", _JSON, nullable=False),
    Column("inclusion_probability", Double, nullable=False),
    Column("random_probability", Double, nullable=False),
    Column("consent", Text, nullable=False),
    Column("redacted", Boolean, nullable=False),
    Column("retention", Text, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("extra", _JSON, nullable=False),
    Column("words", Packed, nullable=False),
)
parts = Table(
    "parts",
    metadata,
    Column("device", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("sha256", Text, primary_key=True),
    Column("size", BigInteger, primary_key=True),
    Column("count", BigInteger, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("received_ms", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)
outbox = Table(
    "outbox",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("topic", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("retain", Boolean, nullable=False),
    Column("owner", Text),
    Column("claimed_ms", BigInteger, nullable=False),
)
lost = Table(
    "lost",
    metadata,
    Column("id", Text, primary_key=True),
    Column("device", Text, nullable=False),
    Column("session", BigInteger, nullable=False),
    Column("fate", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("inclusion_probability", Double, nullable=False),
    Column("report", Text, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
)
incidents = Table(
    "incidents",
    metadata,
    Column("report", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("device", Text, nullable=False),
    Column("line", Text, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
)
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("topic", Text, nullable=False),
    Column("device", Text),
    Column("id", Text),
    Column("consent", Text),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("times", BigInteger, nullable=False),
    Column("first_ms", BigInteger, nullable=False),
    Column("last_ms", BigInteger, nullable=False),
)
telemetry = Table(
    "telemetry",
    metadata,
    Column("device", Text, primary_key=True),
    Column("session", BigInteger, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("received_ms", BigInteger, nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("model_counter", BigInteger, nullable=False),
    Column("model_manifest", Text, nullable=False),
    Column("model_precision", Text, nullable=False),
    Column("utterances", BigInteger, nullable=False),
    Column("speech_s", Double, nullable=False),
    Column("confidence", _JSON, nullable=False),
    Column("word_confidence", _JSON, nullable=False),
    Column("deletion_score", _JSON, nullable=False),
    Column("first_word_s", _JSON, nullable=False),
    Column("final_s", _JSON, nullable=False),
    Column("real_time_factor", Double, nullable=False),
    Column("selected", _JSON, nullable=False),
    Column("vetoed", _JSON, nullable=False),
    Column("unsampled", BigInteger, nullable=False),
    Column("queued", BigInteger, nullable=False),
    Column("queued_bytes", BigInteger, nullable=False),
    Column("dead", BigInteger, nullable=False),
    Column("crashes", BigInteger, nullable=False),
    Column("gauges", _JSON, nullable=False),
    Column("extra", _JSON, nullable=False),
)
updates = Table(
    "updates",
    metadata,
    Column("device", Text, primary_key=True),
    Column("session", BigInteger, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("received_ms", BigInteger, nullable=False),
    Column("attempt", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("target_counter", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("running_name", Text),
    Column("running_version", Text),
    Column("running_counter", BigInteger),
    Column("progress", Double),
    Column("error", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
replies = Table(
    "replies",
    metadata,
    Column("command", Text, primary_key=True),
    Column("device", Text, primary_key=True),
    Column("ok", Boolean, nullable=False),
    Column("detail", Text, nullable=False),
    Column("result", _JSON, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
)
consents = Table(
    "consents",
    metadata,
    Column("device", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("id", Text, nullable=False),
    Column("granted", Boolean, nullable=False),
    Column("from_ms", BigInteger, nullable=False),
    Column("until_ms", BigInteger),
    Column("purposes", _JSON, nullable=False),
    Column("retention_days", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)
erasures = Table(
    "erasures",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("requested", _JSON, nullable=False),
    Column("segments", BigInteger, nullable=False),
    Column("lineage", _JSON, nullable=False),
)
erasure_devices = Table(
    "erasure_devices",
    metadata,
    Column("erasure", Text, primary_key=True),
    Column("device", Text, primary_key=True),
    Column("message", LargeBinary, nullable=False),
    Column("message_id", Text, primary_key=True),
    Column("answered_ms", BigInteger),
    Column("segments", BigInteger),
)
tombstones = Table(
    "tombstones",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("device", Text, primary_key=True),
    Column("erasure", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
labels = Table(
    "labels",
    metadata,
    Column("id", Text, primary_key=True),
    Column("segment", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("author_version", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("words", _JSON, nullable=False),
    Column("confidence", Double),
    Column("language", Text, nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("provenance", _JSON, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)
verdicts = Table(
    "verdicts",
    metadata,
    Column("segment", Text, primary_key=True),
    Column("label", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("doubt", Double, nullable=False),
    Column("draw", Text, nullable=False),
)
leases = Table(
    "leases",
    metadata,
    Column("segment", Text, primary_key=True),
    Column("who", Text, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
)
datasets = Table(
    "datasets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("parents", _JSON, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("recipe", _JSON, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("erased", BigInteger, nullable=False),
)
dataset_members = Table(
    "dataset_members",
    metadata,
    Column("dataset", Text, primary_key=True),
    Column("segment", Text, primary_key=True),
    Column("label", Text),
    Column("split", Text, nullable=False),
    Column("weight", Double, nullable=False),
)
models = Table(
    "models",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("counter", BigInteger, nullable=False),
    Column("parent", Text),
    Column("manifest", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("metrics", _JSON, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)
model_datasets = Table(
    "model_datasets",
    metadata,
    Column("model_name", Text, primary_key=True),
    Column("model_version", Text, primary_key=True),
    Column("dataset", Text, primary_key=True),
)
device_slices = Table(
    "device_slices",
    metadata,
    Column("device", Text, primary_key=True),
    Column("slice", Text, nullable=False),
)
monitor = Table(
    "monitor",
    metadata,
    Column("key", Text, primary_key=True),
    Column("state", _JSON, nullable=False),
)
alarms = Table(
    "alarms",
    metadata,
    Column("id", Text, primary_key=True),
    Column("level", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("statistic", Text, nullable=False),
    Column("change_ms", BigInteger, nullable=False),
    Column("opened_ms", BigInteger, nullable=False),
    Column("closed_ms", BigInteger),
    Column("closed_reason", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("facts", _JSON, nullable=False),
    Column("run", Text, nullable=False),
)
assignments = Table(
    "assignments",
    metadata,
    Column("device", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("counter", BigInteger, nullable=False),
)
rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("plan", _JSON, nullable=False),
    Column("bundle", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
)
rollout_log = Table(
    "rollout_log",
    metadata,
    Column("rollout", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("entry", _JSON, nullable=False),
)
events = Table(
    "events",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("facts", _JSON, nullable=False),
)
api_tokens = Table(
    "api_tokens",
    metadata,
    Column("name", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger),
)
