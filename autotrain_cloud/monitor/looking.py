"""A look at the fleet, its slices and its devices.

A slice is whatever the caller says a device belongs to, language × domain × microphone say; the
model is always part of it, so a promotion starts everything about the promoted devices anew. In the
fleet and in slices a device counts once a look, whatever it did within: its own utterances resemble
one another, those of different devices do not. Its own detector, which only ever opens a ticket,
takes blocks of a few utterances, and is heard only while fleet and slice are well: a change that
all devices share is not theirs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from autotrain_cloud.monitor.alarms import Alarm, Closed, explained
from autotrain_cloud.monitor.baseline import STATISTICS, Baseline, Statistic, weight
from autotrain_cloud.monitor.blocks import Block, DeviceState
from autotrain_cloud.monitor.evidence import EDetector, e_bh, log_factors, log_mean
from autotrain_cloud.monitor.settings import MonitorSettings

RECENT = 60  # looks kept for explanations
LEAST_REACH = 1e-3
LOOKS_OF_RATE = 30  # that the rates in the settings are about


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
    """What is remembered between looks, besides the devices."""

    looks: int = 0
    since_ms: int = 0  # beginning of this look, by the cloud's clock
    streams: Mapping[str, Stream] = field(default_factory=dict)
    alarms: Mapping[str, Alarm] = field(default_factory=dict)  # open, by stream


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a look. Save `fleet` and `devices`; act on the rest."""

    fleet: FleetState
    devices: dict[str, DeviceState]
    opened: tuple[Alarm, ...]
    closed: tuple[Closed, ...]


@dataclass(frozen=True, slots=True)
class _Member:
    """A device with a baseline and utterances in this look."""

    name: str
    state: DeviceState
    baseline: Baseline
    total: Block  # of the look


def due(fleet: FleetState, now_ms: int, settings: MonitorSettings) -> bool:
    """Whether it is time for a look. A clock that was set back delays none."""
    return not fleet.since_ms <= now_ms < fleet.since_ms + settings.look_ms


def look(
    fleet: FleetState,
    devices: Mapping[str, DeviceState],
    slice_of: Callable[[str], str | None],
    *,
    settings: MonitorSettings,
    now_ms: int,
) -> Outcome:
    """Ends the current look. The result depends on the arguments only."""
    members = [
        _Member(name, state, state.baseline, sum(state.blocks[1:], state.blocks[0]))
        for name, state in sorted(devices.items())
        if state.baseline is not None and state.blocks
    ]
    margins = _margins(members)
    groups: dict[str, tuple[Stream, list[_Member]]] = {}
    for member in members:
        for level, name in (("fleet", ""), ("slice", slice_of(member.name))):
            if name is not None:
                key = stream_key(level, name, member.state.model)
                fresh = Stream(level=level, name=name, model=member.state.model)
                groups.setdefault(key, (fleet.streams.get(key, fresh), []))[1].append(member)
    streams = {
        key: stream
        for key, stream in fleet.streams.items()
        if key not in groups and stream.recent[-1].look > fleet.looks - settings.forget_looks
    }
    for key, (stream, group) in groups.items():
        streams[key] = _weighed(stream, group, margins, fleet, settings)
    following = {
        name: _after_look(state, margins.get(state.model), fleet.looks, settings)
        for name, state in devices.items()
    }
    alarms, opened = dict(fleet.alarms), []
    alpha = settings.false_alarms / LOOKS_OF_RATE
    evidence = {key: _evidence(streams[key].detectors) for key in groups}
    for key, threshold in e_bh(evidence, alpha).items():
        if key not in alarms:
            alarms[key] = _alarm(streams[key], evidence[key], threshold, len(groups), now_ms)
            opened.append(alarms[key])
    tickets, told = _tickets(following, slice_of, alarms, fleet, settings, now_ms)
    opened += told
    alarms |= tickets
    closed = []
    for key, alarm in tuple(alarms.items()):
        alarm, reason = _reviewed(key, alarm, streams, groups, following, settings)
        alarms[key] = alarm
        if reason:
            closed.append(Closed(alarms.pop(key), reason, now_ms))
            if key in streams:
                streams[key] = dataclasses.replace(streams[key], detectors={})
            elif alarm.name in following:
                following[alarm.name] = dataclasses.replace(following[alarm.name], detectors={})
    state = FleetState(looks=fleet.looks + 1, since_ms=now_ms, streams=streams, alarms=alarms)
    return Outcome(state, following, tuple(opened), tuple(closed))


def stream_key(level: str, name: str, model: str) -> str:
    return f"{level}/{name}/{model}"


# --- weighing -------------------------------------------------------------------------------------


def _margins(members: Sequence[_Member]) -> dict[str, dict[str, float]]:
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


def _tolerance(statistic: Statistic, settings: MonitorSettings) -> float:
    names = {
        "confidence": settings.confidence_tolerance,
        "wanted": settings.upload_tolerance,
    }
    return names[statistic.name]


def _weighed(
    stream: Stream,
    group: Sequence[_Member],
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
        slack = _tolerance(statistic, settings)
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


def _after_look(
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
            least = centre.block.mean - margin[name] - _tolerance(statistic, settings)
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


def _evidence(detectors: Mapping[str, EDetector]) -> float:
    """Of any of the statistics: the average of e-detectors is one."""
    return log_mean([each.log_evidence for each in detectors.values()])


# --- alarms ---------------------------------------------------------------------------------------


def _strongest(detectors: Mapping[str, EDetector]) -> Statistic:
    return max(STATISTICS, key=lambda statistic: detectors[statistic.name].log_evidence)


def _alarm(stream: Stream, evidence: float, threshold: float, streams: int, now_ms: int) -> Alarm:
    statistic = _strongest(stream.detectors)
    change = stream.detectors[statistic.name].change
    since = [glance for glance in stream.recent if glance.look >= change] or [stream.recent[-1]]
    counts = [glance.utterances for glance in since]
    alarm = Alarm(
        id=f"{stream_key(stream.level, stream.name, stream.model)}@{since[-1].look}",
        level=stream.level,
        name=stream.name,
        model=stream.model,
        statistic=statistic.title,
        usual=float(np.average([g.usual[statistic.name] for g in since], weights=counts)),
        now=float(np.average([g.now[statistic.name] for g in since], weights=counts)),
        change_ms=since[0].at_ms,
        opened_ms=now_ms,
        looks=since[-1].look - since[0].look + 1,
        devices=since[-1].devices,
        utterances=sum(counts),
        log_evidence=evidence,
        log_threshold=threshold,
        streams=streams,
    )
    return dataclasses.replace(alarm, text=explained(alarm))


def _tickets(
    devices: Mapping[str, DeviceState],
    slice_of: Callable[[str], str | None],
    alarms: Mapping[str, Alarm],
    fleet: FleetState,
    settings: MonitorSettings,
    now_ms: int,
) -> tuple[dict[str, Alarm], list[Alarm]]:
    """-> open tickets by key, those that are new."""
    found = {}
    evidence = {
        name: _evidence(state.detectors) for name, state in devices.items() if state.detectors
    }
    alpha = settings.false_tickets / LOOKS_OF_RATE
    for name, threshold in e_bh(evidence, alpha).items():
        state = devices[name]
        shared = {stream_key("fleet", "", state.model)}
        shared.add(stream_key("slice", slice_of(name) or "", state.model))
        # A device that was silent in this look has nothing new to say.
        if shared & set(alarms) or state.recent[-1][0] != fleet.looks:
            continue
        found[device_key(name)] = _ticket(
            name, state, evidence[name], threshold, len(evidence), fleet, settings, now_ms
        )
    for name, state in devices.items():
        if state.seen_ms and now_ms - state.seen_ms > settings.silent_looks * settings.look_ms:
            alarm = Alarm(
                id=f"{device_key(name)}@{fleet.looks}", level="device", name=name,
                model=state.model, statistic="silence", change_ms=state.seen_ms, opened_ms=now_ms,
            )  # fmt: skip
            found[device_key(name)] = dataclasses.replace(alarm, text=explained(alarm))
    new = {key: alarm for key, alarm in found.items() if key not in alarms}
    return new, list(new.values())


def device_key(name: str) -> str:
    return f"device/{name}"


def _ticket(
    name: str,
    state: DeviceState,
    evidence: float,
    threshold: float,
    streams: int,
    fleet: FleetState,
    settings: MonitorSettings,
    now_ms: int,
) -> Alarm:
    assert state.baseline is not None
    statistic = _strongest(state.detectors)
    change = state.detectors[statistic.name].change
    since = [(at, block) for at, block in state.recent if at >= change] or [state.recent[-1]]
    total = sum((block for _, block in since[1:]), since[0][1])
    alarm = Alarm(
        id=f"{device_key(name)}@{fleet.looks}",
        level="device",
        name=name,
        model=state.model,
        statistic=statistic.title,
        usual=state.baseline.centres[statistic.name].value,
        now=total.mean(statistic.name),
        # Looks are numbered, not dated, in a device's memory.
        change_ms=fleet.since_ms - (fleet.looks - since[0][0]) * settings.look_ms,
        opened_ms=now_ms,
        looks=fleet.looks - since[0][0] + 1,
        utterances=total.utterances,
        log_evidence=evidence,
        log_threshold=threshold,
        streams=streams,
    )
    return dataclasses.replace(alarm, text=explained(alarm))


def _reviewed(
    key: str,
    alarm: Alarm,
    streams: Mapping[str, Stream],
    groups: Mapping[str, object],
    devices: Mapping[str, DeviceState],
    settings: MonitorSettings,
) -> tuple[Alarm, str]:
    """The alarm after this look, and why it is over, if it is."""
    if alarm.level != "device":
        if key not in streams:
            return alarm, "no device has reported with this model for long"
        if key not in groups:  # nobody reported: nothing is known
            replaced = not any(state.model == alarm.model for state in devices.values())
            return alarm, "the model was replaced" if replaced else ""
        last = streams[key].recent[-1]
        usual, now = last.usual, last.now
    else:
        state = devices.get(alarm.name)
        if state is None:
            return alarm, "the device is gone"
        if alarm.statistic == "silence":
            return alarm, "the device reports again" if state.seen_ms > alarm.change_ms else ""
        if state.model != alarm.model or state.baseline is None:
            return alarm, "the model was replaced"
        usual = {s.name: state.baseline.centres[s.name].value for s in STATISTICS}
        now = {s.name: state.recent[-1][1].mean(s.name) for s in STATISTICS}
    shifted = any(
        statistic.sign * (now[statistic.name] - usual[statistic.name])
        < -_tolerance(statistic, settings)
        for statistic in STATISTICS
    )
    alarm = dataclasses.replace(alarm, calm=0 if shifted else alarm.calm + 1)
    return alarm, "it is as it was" if alarm.calm >= settings.calm_looks else ""
