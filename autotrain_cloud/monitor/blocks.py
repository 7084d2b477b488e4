"""A device's telemetry as observations: sums over blocks of utterances, by looks.

The times in a report are by the device's clock, which may be wrong by years, so a report counts for
the look in which it arrives. A report is counted once however often it comes; which have been is
remembered by session and sequence number. What comes from before a change of the model says nothing
about the new one and is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from autotrain_cloud.monitor.baseline import Baseline
from autotrain_cloud.monitor.evidence import EDetector
from autotrain_cloud.monitor.settings import MonitorSettings
from edge_runtime.contract.messages import Telemetry
from edge_runtime.contract.records import Model

REMEMBERED = 64  # reports; an older one that comes again cannot be told from a new one
CLOCK_MS = 3_600_000  # by which a clock may be wrong without being counted as wrong


@dataclass(frozen=True, slots=True)
class Block:
    """Sums over utterances."""

    utterances: int
    confidence: float  # sum
    wanted: float  # how many the device wanted to upload for what they were

    def __add__(self, other: Block) -> Block:
        return Block(
            self.utterances + other.utterances,
            self.confidence + other.confidence,
            self.wanted + other.wanted,
        )

    def mean(self, statistic: str) -> float:
        """0 to 1."""
        return float(getattr(self, statistic)) / self.utterances


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """All that is remembered about a device."""

    model: str  # that the rest is about: "name version precision"
    since: tuple[int, int] = (-1, -1)  # session and sequence of the first report with that model
    seen: tuple[tuple[int, int], ...] = ()  # sessions and sequence numbers, ascending
    seen_ms: int = 0  # arrival of the newest report, by the cloud's clock
    blocks: tuple[Block, ...] = ()  # of this look
    warmup: tuple[tuple[Block, ...], ...] = ()  # of finished looks, until there is a baseline
    baseline: Baseline | None = None
    detectors: Mapping[str, EDetector] = field(default_factory=dict)  # by statistic
    recent: tuple[tuple[int, Block], ...] = ()  # looks, for explanations
    ignored: Mapping[str, int] = field(default_factory=dict)  # reports, by reason
    lost: int = 0  # sequence numbers that never came
    clock: int = 0  # reports with impossible times, counted all the same


def model_key(model: Model) -> str:
    """Devices that run the same thing have the same."""
    return f"{model.name} {model.version} {model.precision}"


def observe(
    state: DeviceState | None,
    report: Telemetry,
    *,
    received_ms: int,
    settings: MonitorSettings,
) -> DeviceState:
    """The state of a device after a report, or before its first with `None`."""
    key, place = model_key(report.model), (report.session, report.sequence)
    if state is None:
        state = DeviceState(model=key)  # of what was before nothing is known
    if place in state.seen:
        return _ignore(state, "duplicate")
    if len(state.seen) == REMEMBERED and place < state.seen[0]:
        return _ignore(state, "old")
    block = block_of(report)
    if block is None:
        return _ignore(state, "malformed")
    newer = not state.seen or place > state.seen[-1]
    if key != state.model:
        if not newer:
            return _ignore(state, "other model")
        state = DeviceState(
            model=key, since=place, seen=state.seen, ignored=state.ignored, lost=state.lost,
            clock=state.clock,
        )  # fmt: skip
    elif place < state.since:
        return _ignore(state, "other model")  # the same model, before another was tried
    wrong = not 0 <= report.end_ms - report.start_ms <= 7 * settings.look_ms
    wrong = wrong or report.end_ms > received_ms + CLOCK_MS
    return dataclasses.replace(
        state,
        seen=tuple(sorted((*state.seen, place)))[-REMEMBERED:],
        seen_ms=max(state.seen_ms, received_ms),
        blocks=added(state.blocks, block, settings.block_utterances),
        lost=max(0, state.lost + _lost(state, place)),
        clock=state.clock + wrong,
    )


def block_of(report: Telemetry) -> Block | None:
    """The sums of a report; `None` if they contradict one another."""
    count = sum(report.confidence.counts)
    total = report.confidence.total
    if count != report.utterances or not -1e-6 <= total <= count + 1e-6:
        return None
    for_what_they_were = sum(n for reason, n in report.selected.items() if reason != "random")
    wanted = min(report.utterances, for_what_they_were + sum(report.vetoed.values()))
    return Block(report.utterances, min(max(total, 0.0), float(count)), float(wanted))


def added(blocks: tuple[Block, ...], block: Block, enough: int) -> tuple[Block, ...]:
    """Small blocks are put together until they have `enough` utterances."""
    if not block.utterances:
        return blocks
    if blocks and blocks[-1].utterances < enough:
        return (*blocks[:-1], blocks[-1] + block)
    return (*blocks, block)


def _lost(state: DeviceState, place: tuple[int, int]) -> int:
    """Reports found missing by this one; -1 for one that was missing until now."""
    session, sequence = place
    numbers = [s for at, s in state.seen if at == session]
    if not numbers:
        return 0
    if sequence > numbers[-1]:
        return sequence - numbers[-1] - 1
    return numbers[0] - sequence - 1 if sequence < numbers[0] else -1


def _ignore(state: DeviceState, reason: str) -> DeviceState:
    count = state.ignored.get(reason, 0) + 1
    return dataclasses.replace(state, ignored={**state.ignored, reason: count})
