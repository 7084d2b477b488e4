"""What is observed together: the fleet, a slice, a device; and what a look adds to its evidence.

In the fleet and in slices a device counts once a look, whatever it did within: its own utterances
resemble one another, those of different devices do not. Its own detector takes blocks of a few
utterances.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from autotrain_cloud.monitor.alarms import Alarm
from autotrain_cloud.monitor.baseline import STATISTICS, Baseline, Statistic, weight
from autotrain_cloud.monitor.blocks import Block, DeviceState
from autotrain_cloud.monitor.evidence import EDetector, log_factors, log_mean
from autotrain_cloud.monitor.settings import MonitorSettings

RECENT = 60  # looks kept for explanations
LEAST_REACH = 1e-3


@dataclass(frozen=True, slots=True)
class Glance:
    """What one look found in a stream."""

    look: int
    at_ms: int  # its beginning
    devices: int
    utterances: int
    usual: Mapping[str, float]  # by statistic
    now: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """The fleet or a slice, with one model."""

    level: str
    name: str
    model: str
    detectors: Mapping[str, EDetector] = field(default_factory=dict)  # by statistic
    recent: tuple[Glance, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    """What is remembered between looks, besides the devices. The first begins with `since_ms`."""

    looks: int = 0
    since_ms: int = 0  # beginning of this look, by the cloud's clock
    streams: Mapping[str, Stream] = field(default_factory=dict)
    alarms: Mapping[str, Alarm] = field(default_factory=dict)  # open, by stream


@dataclass(frozen=True, slots=True)
class Member:
    """A device with a baseline and utterances in this look."""

    name: str
    state: DeviceState
    baseline: Baseline
    total: Block  # of the look


def stream_key(level: str, name: str, model: str) -> str:
    return f"{level}/{name}/{model}"


def device_key(name: str) -> str:
    return f"device/{name}"


def margins_of(members: Sequence[Member]) -> dict[str, dict[str, float]]:
    """How far one device's baseline may be wrong, by model and statistic: about 98 % are within.

    Pooled over the devices of a model: the spread that one device happened to show says too little.
    """
    found: dict[str, dict[str, float]] = {}
    for model in {member.state.model for member in members}:
        same = [member.baseline for member in members if member.state.model == model]
        found[model] = {}
        for statistic in STATISTICS:
            usual = [baseline.centres[statistic.name].look for baseline in same]
            freedom = sum(each.count - 1 for each in usual)
            # Student's quantile at 0.977, where the normal one is 2 (Cornish-Fisher)
            quantile = 2 + 2.5 / freedom + 3.06 / freedom**2
            error = float(np.mean([each.error for each in usual]))
            found[model][statistic.name] = quantile * math.sqrt(error)
    return found


def tolerance(statistic: Statistic, settings: MonitorSettings) -> float:
    names = {
        "confidence": settings.confidence_tolerance,
        "wanted": settings.upload_tolerance,
    }
    return names[statistic.name]


def weighed(
    stream: Stream,
    group: Sequence[Member],
    margins: Mapping[str, Mapping[str, float]],
    fleet: FleetState,
    settings: MonitorSettings,
) -> Stream:
    """A stream after this look."""
    weights = np.array([weight(m.total.utterances, settings.full_utterances) for m in group])
    utterances = np.array([m.total.utterances for m in group], float)
    shrink = math.sqrt(float(np.sum(weights**2))) / float(np.sum(weights))  # errors average out
    detectors, usual, now = {}, {}, {}
    for statistic in STATISTICS:
        centres = [m.baseline.centres[statistic.name] for m in group]
        values = np.array([m.total.mean(statistic.name) for m in group])
        slack = tolerance(statistic, settings)
        slack += margins[stream.model][statistic.name] * shrink
        gaps, reach = [], []
        for centre, value in zip(centres, values.tolist(), strict=True):
            least = centre.look.mean - slack
            gaps.append(least - centre.observation(statistic, value))
            reach.append(max(centre.top - least, LEAST_REACH))
        detector = stream.detectors.get(statistic.name, EDetector())
        factors = log_factors(gaps, reach, weights.tolist())
        detectors[statistic.name] = detector.after(factors, fleet.looks)
        now[statistic.name] = float(np.average(values, weights=utterances))
        usual[statistic.name] = float(np.average([c.value for c in centres], weights=utterances))
    glance = Glance(fleet.looks, fleet.since_ms, len(group), int(utterances.sum()), usual, now)
    recent = (*stream.recent, glance)[-RECENT:]
    return dataclasses.replace(stream, detectors=detectors, recent=recent)


def after_look(
    state: DeviceState,
    margin: Mapping[str, float] | None,
    at: int,
    settings: MonitorSettings,
) -> DeviceState:
    """A device after this look: its own detector has taken the blocks, or its warm-up has."""
    if not state.blocks:
        return state
    total = sum(state.blocks[1:], state.blocks[0])
    recent = (*state.recent, (at, total))[-RECENT:]
    if state.baseline is not None and margin is not None:
        detectors = {}
        counts = [weight(b.utterances, settings.full_utterances) for b in state.blocks]
        for statistic in STATISTICS:
            name = statistic.name
            centre = state.baseline.centres[name]
            least = centre.block.mean - margin[name] - tolerance(statistic, settings)
            gaps = [least - centre.observation(statistic, b.mean(name)) for b in state.blocks]
            reach = [max(centre.top - least, LEAST_REACH)] * len(gaps)
            factors = log_factors(gaps, reach, counts)
            detectors[name] = state.detectors.get(name, EDetector()).after(factors, at)
        return dataclasses.replace(state, blocks=(), recent=recent, detectors=detectors)
    warmup = (*state.warmup, state.blocks)
    blocks = [block for each in warmup for block in each]
    enough = sum(block.utterances for block in blocks) >= settings.warmup_utterances
    state = dataclasses.replace(state, blocks=(), recent=recent, warmup=warmup)
    if len(warmup) < settings.warmup_looks or not enough:
        return state
    totals = [sum(each[1:], each[0]) for each in warmup]
    baseline = Baseline.learnt(blocks, totals, full=settings.full_utterances)
    return dataclasses.replace(state, warmup=(), baseline=baseline)


def evidence_of(detectors: Mapping[str, EDetector]) -> float:
    """Of any of the statistics: the average of e-detectors is one."""
    return log_mean([each.log_evidence for each in detectors.values()])


def strongest(detectors: Mapping[str, EDetector]) -> Statistic:
    return max(STATISTICS, key=lambda statistic: detectors[statistic.name].log_evidence)
