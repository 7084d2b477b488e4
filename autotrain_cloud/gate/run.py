"""A gate from files to verdict: reads the sets, hears them, measures, decides and remembers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autotrain_cloud.gate import hygiene, ledger
from autotrain_cloud.gate.evaluate import Evaluation, Hearing, evaluate
from autotrain_cloud.gate.evidence import Evidence, Heard, Model
from autotrain_cloud.gate.power import Power, detectable
from autotrain_cloud.gate.sets import EvalSet, read_set
from autotrain_cloud.gate.settings import GateSettings
from autotrain_cloud.gate.speed import measure_cost
from autotrain_cloud.gate.verdict import Verdict, decide
from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError
from edge_runtime.metrics import ErrorCounts
from edge_runtime.precision import FLOAT

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Who competes, and where."""

    champion: Path
    challenger: Path
    targets: Mapping[str, Path]  # manifests by name: where it must be better
    guards: Mapping[str, Path] = field(default_factory=dict)  # where it must not be worse
    noise: Path | None = None  # recordings without speech
    phrases: Path | None = None  # what must be right
    training: tuple[Path, ...] = ()  # manifests the challenger was trained on


def run_gate(
    request: Request,
    settings: GateSettings,
    cache: Path,
    *,
    seen: ledger.Reading | None = None,
    jobs: int = 1,
    say: Say = lambda text: None,
) -> Verdict:
    """The verdict. `seen` is the ledger so far, from which earlier looks at the sets are counted.

    Raises ConfigError for manifests, BundleError for bundles, BackendError for what cannot be run.
    """
    if not request.targets:
        raise ConfigError("a gate needs a target: the set on which the challenger must be better")
    champion, challenger = Model.of(request.champion), Model.of(request.challenger)
    targets = [read_set(name, path) for name, path in request.targets.items()]
    guards = [read_set(name, path) for name, path in request.guards.items()]
    noise = read_set("noise", request.noise, blocks=False) if request.noise else None
    phrases = read_set("phrases", request.phrases, blocks=False) if request.phrases else None
    if noise and (spoken := sum(bool(r.utterance.text.strip()) for r in noise.recordings)):
        raise ConfigError(f'{noise.path}: {spoken} recordings have words (expected none, text "")')
    names = [one.name for one in (*targets, *guards)]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two sets are called {double}")

    def hear(bundle: Path, one: EvalSet, hearing: Hearing) -> Evaluation:
        say(f"{bundle.name} hears {one.name} ({len(one.recordings)} recordings)")
        return evaluate(bundle, one, hearing, cache, jobs=jobs)

    def both(one: EvalSet) -> Heard:
        return Heard(
            champion=hear(request.champion, one, settings.hearing),
            challenger=hear(request.challenger, one, settings.hearing),
        )

    heard = [both(one) for one in targets]
    guarded = [both(one) for one in guards]
    floats: tuple[Evaluation, ...] = ()
    shipped = heard[0].challenger
    if shipped.precision != FLOAT and FLOAT in Bundle.open(request.challenger).manifest.precisions:
        as_float = Hearing(precision=FLOAT, chunk_ms=shipped.chunk_ms, beam=settings.hearing.beam)
        floats = tuple(hear(request.challenger, one, as_float) for one in (*targets, *guards))
    say("both take turns: time and memory")
    cost = measure_cost(
        request.champion,
        request.challenger,
        (guards or targets)[0],
        settings.hearing,
        runs=settings.bounds.runs,
        seconds=settings.bounds.seconds,
    )
    looks = {one.digest: ledger.looks(seen, one.digest) for one in (*targets, *guards) if seen}
    training = hygiene.Training.read(request.training) if request.training else None
    evidence = Evidence(
        champion=champion,
        challenger=challenger,
        targets=tuple(heard),
        guards=tuple(guarded),
        noise=both(noise) if noise else None,
        phrases=both(phrases) if phrases else None,
        floats=floats,
        cost=cost,
        findings=tuple(hygiene.check([*targets, *guards], training, settings.trust, looks)),
    )
    return decide(evidence, settings)


def remember(
    path: Path, verdict: Verdict, who: str, *, training: tuple[Path, ...] = ()
) -> ledger.Entry:
    """Adds the verdict to the ledger. Raises as `ledger.append`."""
    fields = verdict.to_json()
    body = {
        "decision": "promote" if verdict.promote else "reject",
        "verdict": verdict.digest,
        **{name: fields[name] for name in ("reasons", "champion", "challenger")},
        "sets": [{name: one[name] for name in ("name", "role", "digest")} for one in verdict.sets],
        "measured": {
            rule.name: numbers
            for rule in verdict.rules
            if (numbers := {k: v for k, v in rule.measured.items() if isinstance(v, int | float)})
        },
        "training": [
            {"name": one.name, "sha256": hashlib.sha256(one.read_bytes()).hexdigest()}
            for one in training
        ],
    }
    return ledger.append(path, "verdict", who, body)


def set_powers(
    champion: Path,
    sets: Mapping[str, Path],
    settings: GateSettings,
    cache: Path,
    *,
    jobs: int = 1,
    say: Say = lambda text: None,
) -> dict[str, Power]:
    """What each slice can detect, from the champion's own errors. Raises as `run_gate`."""
    powers = {}
    for name, path in sets.items():
        one = read_set(name, path)
        say(f"{champion.name} hears {name} ({len(one.recordings)} recordings)")
        found = evaluate(champion, one, settings.hearing, cache, jobs=jobs)
        parts: dict[str, dict[str, ErrorCounts]] = {}
        for recording, outcome in zip(one.recordings, found.outcomes, strict=True):
            part = parts.setdefault("/".join(filter(None, (name, recording.slice))), {})
            part[recording.block] = part.get(recording.block, ErrorCounts()) + outcome.counts
        for slice_name, blocks in parts.items():
            powers[slice_name] = detectable(
                [counts.reference_length for counts in blocks.values()],
                [counts.errors for counts in blocks.values()],
                level=settings.test.level,
                power=settings.test.power,
                assumptions=settings.assumptions,
            )
    return powers
