"""Whether the challenger may replace the champion: every rule, its numbers and its reason.

    verdict = decide(evidence, settings)
    verdict.promote, verdict.reasons            # False, ("guard street: worse: WER 12.1 % → …",)

All rules must hold, so no correction is needed for promotion itself: a challenger that breaks one
rule passes it with the probability that this rule alone allows.  Holm's correction over the guard
slices is for the reader, to whom all statements about them are shown together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotrain_cloud.gate import rules
from autotrain_cloud.gate.evidence import Evidence, Heard, Model, Rule, slices
from autotrain_cloud.gate.ledger import canonical
from autotrain_cloud.gate.settings import GateSettings

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision."""

    champion: Model
    challenger: Model
    rules: tuple[Rule, ...]
    sets: tuple[Mapping[str, Any], ...]
    precision: str
    chunk_ms: int
    warnings: tuple[str, ...] = ()

    @property
    def promote(self) -> bool:
        return all(rule.passed is not False for rule in self.rules)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Of a rejection; empty for a promotion."""
        return tuple(f"{r.name}: {r.reason}" for r in self.rules if r.passed is False)

    def to_json(self) -> dict[str, Any]:
        def model(one: Model) -> dict[str, Any]:
            return {
                "name": one.name,
                "version": one.version,
                "release_counter": one.release_counter,
                "digest": one.digest,
            }

        return {
            "schema_version": SCHEMA_VERSION,
            "promote": self.promote,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "champion": model(self.champion),
            "challenger": model(self.challenger),
            "precision": self.precision,
            "chunk_ms": self.chunk_ms,
            "sets": [dict(one) for one in self.sets],
            "rules": [
                {
                    "name": rule.name,
                    "passed": rule.passed,
                    "reason": rule.reason,
                    "threshold": rule.threshold,
                    "measured": dict(rule.measured),
                }
                for rule in self.rules
            ],
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON with sorted keys and no spaces."""
        return hashlib.sha256(canonical(self.to_json())).hexdigest()


def decide(evidence: Evidence, settings: GateSettings) -> Verdict:
    """Applies every rule. Raises ValueError without targets: there is nothing to win then."""
    if not evidence.targets:
        raise ValueError("a gate needs at least one target set")
    spoken = (*evidence.targets, *evidence.guards)
    found = [
        *rules.hygiene(evidence.findings),
        *rules.superiority(slices(evidence.targets), settings),
        *rules.non_inferiority(slices(evidence.guards), settings),
        rules.noise(evidence.noise, settings.bounds),
        rules.phrases(evidence.phrases),
        rules.int8(evidence, settings),
        *rules.cost(evidence.cost, settings.bounds),
        rules.confidence(spoken, settings),
    ]
    first = evidence.targets[0].challenger
    return Verdict(
        champion=evidence.champion,
        challenger=evidence.challenger,
        rules=tuple(found),
        sets=tuple(_sets(evidence)),
        precision=first.precision,
        chunk_ms=first.chunk_ms,
        warnings=tuple(f"{f.eval_set}: {f.problem}" for f in evidence.findings if not f.fatal),
    )


def _sets(evidence: Evidence) -> Iterable[dict[str, Any]]:
    roles: list[tuple[str, Sequence[Heard | None]]] = [
        ("target", evidence.targets),
        ("guard", evidence.guards),
        ("noise", [evidence.noise]),
        ("phrases", [evidence.phrases]),
    ]
    for role, heard in roles:
        for one in heard:
            if one is not None:
                yield {
                    "name": one.eval_set.name,
                    "role": role,
                    "digest": one.eval_set.digest,
                    "utterances": len(one.eval_set.recordings),
                    "seconds": round(one.eval_set.seconds, 3),
                    "results": {
                        "champion": one.champion.digest,
                        "challenger": one.challenger.digest,
                    },
                }
