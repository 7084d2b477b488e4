"""A look at the fleet, its slices and its devices.

A slice is whatever the caller says a device belongs to, language × domain × microphone say; the
model is always part of it, so a promotion starts everything about the promoted devices anew. A
device is heard only while fleet and slice are well: a change that all devices share is not its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from autotrain_cloud.monitor.alarms import Alarm, Closed, explained
from autotrain_cloud.monitor.baseline import STATISTICS
from autotrain_cloud.monitor.blocks import DeviceState
from autotrain_cloud.monitor.evidence import e_bh
from autotrain_cloud.monitor.settings import LOOKS_OF_RATE, MonitorSettings
from autotrain_cloud.monitor.streams import (
    FleetState,
    Member,
    Stream,
    after_look,
    evidence_of,
    margins_of,
    stream_key,
    strongest,
    tolerance,
    weighed,
)
from autotrain_cloud.monitor.tickets import tickets


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a look. Save `fleet` and `devices`; act on the rest."""

    fleet: FleetState
    devices: dict[str, DeviceState]
    opened: tuple[Alarm, ...]
    closed: tuple[Closed, ...]


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
        Member(name, state, state.baseline, sum(state.blocks[1:], state.blocks[0]))
        for name, state in sorted(devices.items())
        if state.baseline is not None and state.blocks
    ]
    margins = margins_of(members)
    groups: dict[str, tuple[Stream, list[Member]]] = {}
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
        streams[key] = weighed(stream, group, margins, fleet, settings)
    following = {
        name: after_look(state, margins.get(state.model), fleet.looks, settings)
        for name, state in devices.items()
    }
    alarms, opened = dict(fleet.alarms), []
    alpha = settings.false_alarms / LOOKS_OF_RATE
    evidence = {key: evidence_of(streams[key].detectors) for key in groups}
    for key, threshold in e_bh(evidence, alpha).items():
        if key not in alarms:
            alarms[key] = _alarm(streams[key], evidence[key], threshold, len(groups), now_ms)
            opened.append(alarms[key])
    found, told = tickets(following, slice_of, alarms, fleet, settings, now_ms)
    opened += told
    alarms |= found
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


def _alarm(stream: Stream, evidence: float, threshold: float, streams: int, now_ms: int) -> Alarm:
    statistic = strongest(stream.detectors)
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
        < -tolerance(statistic, settings)
        for statistic in STATISTICS
    )
    alarm = dataclasses.replace(alarm, calm=0 if shifted else alarm.calm + 1)
    return alarm, "it is as it was" if alarm.calm >= settings.calm_looks else ""
