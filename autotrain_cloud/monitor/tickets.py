"""Devices that need somebody to look after them. None of this ever starts a retraining."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from autotrain_cloud.monitor.alarms import Alarm, explained
from autotrain_cloud.monitor.blocks import DeviceState
from autotrain_cloud.monitor.evidence import e_bh
from autotrain_cloud.monitor.settings import LOOKS_OF_RATE, MonitorSettings
from autotrain_cloud.monitor.streams import (
    FleetState,
    device_key,
    evidence_of,
    stream_key,
    strongest,
)


def tickets(
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
        name: evidence_of(state.detectors) for name, state in devices.items() if state.detectors
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
    statistic = strongest(state.detectors)
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
