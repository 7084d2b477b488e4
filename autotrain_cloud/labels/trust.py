"""How much a label is worth: the expected share of its words that are right.

Without a fitted model it is agreement itself: one less the distance to the nearest other voice.
Fitted on segments that people have checked, it is a logistic regression on all that was measured,
each word of a checked label counting once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotrain_cloud.labels.records import Label
from autotrain_cloud.labels.text import plain
from autotrain_cloud.tables import from_plain, to_plain
from edge_runtime.errors import ConfigError
from edge_runtime.files import write_atomically

FEATURES = (
    "teacher_device", "teacher_second", "second_device", "has_second", "teacher_confidence",
    "avg_logprob", "device_confidence", "device_logprob", "rate", "short",
)  # fmt: skip
MIN_CHECKED = 30  # labels; fewer say nothing about ten features


def agreement(teacher_device: float, teacher_second: float | None) -> float:
    """Trust without a model."""
    return 1.0 - min(teacher_device, 1.0 if teacher_second is None else teacher_second)


def features(label: Label) -> list[float]:
    """In the order of FEATURES; what was not measured is 0."""
    teacher, segment = label.teacher, label.segment
    to_device = label.teacher_device or 0.0
    return [
        to_device,
        to_device if label.teacher_second is None else label.teacher_second,
        to_device if label.second_device is None else label.second_device,
        float(label.teacher_second is not None),
        teacher.confidence if teacher else 0.0,
        max(-3.0, teacher.avg_logprob or 0.0) if teacher else 0.0,
        segment.confidence,
        max(-5.0, label.device_score.avg_logprob) if label.device_score else 0.0,
        min(40.0, len(label.text) / label.speech_s) / 20 if label.speech_s else 0.0,
        1 / (1 + len(label.text.split())),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustModel:
    """A logistic regression on standardised features."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    checked: int  # labels it was fitted on

    def __post_init__(self) -> None:
        if self.names != FEATURES:
            raise ConfigError(f"names: fitted on other features (expected {', '.join(FEATURES)})")
        if {len(self.mean), len(self.scale), len(self.weights)} != {len(FEATURES)}:
            raise ConfigError(f"mean, scale and weights: expected {len(FEATURES)} numbers each")

    def of(self, label: Label) -> float:
        """0..1"""
        values = (np.array(features(label)) - self.mean) / self.scale
        return 1 / (1 + math.exp(-float(np.clip(values @ self.weights + self.bias, -30, 30))))

    @classmethod
    def load(cls, path: Path) -> TrustModel:
        """Raises ConfigError."""
        import json

        try:
            fields = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not a trust model: {error}") from error
        return from_plain(cls, fields, str(path))

    def save(self, path: Path) -> None:
        import json

        write_atomically(path, json.dumps(to_plain(self), indent=1).encode() + b"\n")


def fit_trust(labels: Sequence[Label], references: Sequence[str]) -> TrustModel:
    """`labels` as a teacher made them, and what was really said.

    Raises ConfigError: too few, or all of them equally right.
    """
    from sklearn.linear_model import LogisticRegression

    from edge_runtime.metrics import word_errors

    if len(labels) < MIN_CHECKED:
        raise ConfigError(f"{len(labels)} checked labels; fitting trust needs {MIN_CHECKED}")
    x = np.array([features(label) for label in labels])
    right, wrong = [], []
    for label, reference in zip(labels, references, strict=True):
        counts = word_errors(plain(reference), label.text)
        right.append(counts.hits)
        wrong.append(counts.errors)
    if not sum(right) or not sum(wrong):
        raise ConfigError("every checked label is equally right; there is nothing to fit")
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    z = np.concatenate([(x - mean) / scale] * 2)
    model = LogisticRegression(C=0.1, max_iter=1000)
    # A word has no independent errors: a label counts as one, whatever its length.
    total = np.maximum(np.array(right) + np.array(wrong), 1)
    weight = np.concatenate([np.array(right) / total, np.array(wrong) / total])
    model.fit(z, np.repeat([1, 0], len(x)), sample_weight=weight)
    return TrustModel(
        names=FEATURES,
        mean=tuple(map(float, mean)),
        scale=tuple(map(float, scale)),
        weights=tuple(map(float, model.coef_[0])),
        bias=float(model.intercept_[0]),
        checked=len(x),
    )
