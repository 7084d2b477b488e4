"""What a verdict rests on, and what one of its rules says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotrain_cloud.gate.compare import Blocks
from autotrain_cloud.gate.evaluate import Evaluation, bundle_digest
from autotrain_cloud.gate.hygiene import Finding
from autotrain_cloud.gate.sets import EvalSet
from autotrain_cloud.gate.speed import Cost
from edge_runtime.bundle import Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A bundle, as far as a verdict names it."""

    name: str
    version: str
    release_counter: int
    digest: str  # SHA-256 of its manifest

    @classmethod
    def of(cls, path: Path) -> Model:
        """Raises ConfigError for what is no bundle."""
        manifest = Bundle.open(path).manifest
        return cls(
            name=manifest.name,
            version=manifest.version,
            release_counter=manifest.release_counter,
            digest=bundle_digest(path),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One set, heard by both."""

    champion: Evaluation
    challenger: Evaluation

    @property
    def eval_set(self) -> EvalSet:
        return self.champion.eval_set


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a verdict rests on. What is None was not measured."""

    champion: Model
    challenger: Model
    targets: tuple[Heard, ...]
    guards: tuple[Heard, ...] = ()
    noise: Heard | None = None
    phrases: Heard | None = None
    floats: tuple[Evaluation, ...] = ()  # the challenger in float32, on targets and guards
    cost: Cost | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One demand and what became of it."""

    name: str
    passed: bool | None  # None: not measured
    reason: str  # a sentence
    measured: Mapping[str, Any] = field(default_factory=dict)
    threshold: float | None = None


def slices(heard: Iterable[Heard]) -> dict[str, Blocks]:
    """Errors by speaker of each part of each set: "NAME", or "NAME/SLICE"."""
    pairs: dict[str, list[Any]] = {}
    for one in heard:
        recordings = one.eval_set.recordings
        outcomes = zip(recordings, one.champion.outcomes, one.challenger.outcomes, strict=True)
        for recording, before, after in outcomes:
            name = "/".join(filter(None, (one.eval_set.name, recording.slice)))
            pairs.setdefault(name, []).append((recording.block, before.counts, after.counts))
    return {name: Blocks.of(found) for name, found in pairs.items()}
