"""Whether sets may be trusted to judge a model that was trained on these manifests.

A set that the model has seen, or that another model has labelled, praises what it should judge.
And a set that many candidates were judged on, with the best one kept, is slowly learned by heart
(Blum & Hardt, arXiv:1502.04585), although nobody ever trained on it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotrain_cloud.gate.sets import EvalSet, audio_digest
from edge_runtime.manifest import read_manifest

TRUSTED = ("human", "source")  # transcribed by a person; read from the text
_SHINGLE = 3  # words
_SIMILAR = 0.8  # Jaccard, of shingles
_SHORTEST = 5  # words: shorter texts are common property


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What is asked of a set."""

    unmarked_labels: bool = False  # accept lines that do not say who labelled them
    max_known_texts: float = 0.1  # share of texts that training has too, or nearly
    max_looks: int = 50  # challengers judged on it, before it should be replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a model was trained on, as far as it matters here."""

    speakers: frozenset[str]
    audio: frozenset[str]  # SHA-256
    texts: frozenset[str]

    @classmethod
    def read(cls, manifests: Iterable[Path]) -> Training:
        """Raises ConfigError. A line with `audio_sha256` need not have its audio here."""
        speakers, audio, texts = set(), set(), set()
        for path in manifests:
            for number, utterance in enumerate(read_manifest(path), start=1):
                known = utterance.extra.get("audio_sha256")
                where = f"{path}: utterance {number}"
                audio.add(str(known or audio_digest(utterance.audio_filepath, where)))
                if block := utterance.speaker or str(utterance.extra.get("device", "")):
                    speakers.add(block)
                texts.add(normalised(utterance.text))
        return cls(speakers=frozenset(speakers), audio=frozenset(audio), texts=frozenset(texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about a set; `fatal`: it cannot judge."""

    eval_set: str
    problem: str
    fatal: bool = True


def check(
    sets: Sequence[EvalSet],
    training: Training | None,
    trust: Trust,
    looks: Mapping[str, int] = {},
) -> list[Finding]:
    """What is wrong with the sets; `looks` counts earlier challengers by the set's digest."""
    findings = []
    near = _Near(training.texts) if training else None
    for one in sets:
        findings += _labels(one, trust)
        seen = looks.get(one.digest, 0)
        if seen >= trust.max_looks:
            text = f"{seen} challengers were judged on it; from {trust.max_looks} on, replace it"
            findings.append(Finding(eval_set=one.name, problem=text, fatal=False))
        if training is None or near is None:
            continue
        speakers = {r.block for r in one.recordings if r.block} & training.speakers
        if speakers:
            text = f"speakers that training has too: {_some(speakers)}"
            findings.append(Finding(eval_set=one.name, problem=text))
        heard = sum(recording.audio_sha256 in training.audio for recording in one.recordings)
        if heard:
            text = f"{heard} of {len(one.recordings)} recordings are in the training data"
            findings.append(Finding(eval_set=one.name, problem=text))
        known = sum(near.has(recording.utterance.text) for recording in one.recordings)
        if known > trust.max_known_texts * len(one.recordings):
            text = (
                f"{known} of {len(one.recordings)} texts are in the training data, or nearly "
                f"(at most {trust.max_known_texts:.0%} may be)"
            )
            findings.append(Finding(eval_set=one.name, problem=text))
    return findings


def normalised(text: str) -> str:
    """Lower-case words without punctuation."""
    return " ".join(re.findall(r"[\w']+", text.lower()))


def _labels(one: EvalSet, trust: Trust) -> list[Finding]:
    sources = Counter(str(r.utterance.extra.get("label_source", "")) for r in one.recordings)
    findings = []
    unmarked = sources.pop("", 0)
    if unmarked and not trust.unmarked_labels:
        text = (
            f"{unmarked} of {len(one.recordings)} lines have no label_source; expected "
            f"{' or '.join(TRUSTED)}"
        )
        findings.append(Finding(eval_set=one.name, problem=text))
    others = {name: count for name, count in sources.items() if name not in TRUSTED}
    if others:
        text = (
            f"{sum(others.values())} of {len(one.recordings)} lines are labelled by "
            f"{_some(others)}; a guard is labelled by people only"
        )
        findings.append(Finding(eval_set=one.name, problem=text))
    return findings


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


class _Near:
    """Texts, to be asked for one like them."""

    def __init__(self, texts: frozenset[str]) -> None:
        self._texts = texts
        self._shingles: list[frozenset[tuple[str, ...]]] = []
        self._having: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for text in texts:
            shingles = _shingles(text)
            for shingle in shingles:
                self._having[shingle].append(len(self._shingles))
            self._shingles.append(shingles)

    def has(self, text: str) -> bool:
        text = normalised(text)
        if len(text.split()) < _SHORTEST:
            return False
        if text in self._texts:
            return True
        ours = _shingles(text)
        common = Counter(i for shingle in ours for i in self._having.get(shingle, ()))
        return any(
            count / (len(ours) + len(self._shingles[i]) - count) >= _SIMILAR
            for i, count in common.items()
        )


def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    words = text.split()
    return frozenset(zip(*(words[i:] for i in range(_SHINGLE)), strict=False))
