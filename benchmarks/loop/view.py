"""The loop as one watches it: stages, devices, and what happened last; lines where nobody looks."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from autotrain_cloud.store import Store
from benchmarks.loop import fleet
from benchmarks.loop.story import Event, Story
from benchmarks.loop.world import DEVICES

LINES = 12  # of the journal
_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 40  # reports in the curve of a device


class View:
    """`with View(title) as view: view.show(...)`."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._console = console or Console()
        self._live = (
            Live(console=self._console, refresh_per_second=2) if self._console.is_terminal else None
        )

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._live:
            self._live.stop()

    def show(self, story: Story, new: list[Event], store: Store) -> None:
        if self._live is None:
            for event in new:
                self._console.print(str(event)[:200], highlight=False, markup=False, soft_wrap=True)
            return
        self._live.update(
            Group(self._stages(story), _devices(store, story), _journal(story.events))
        )

    def _stages(self, story: Story) -> Panel:
        now_s = time.time() - story.begun
        line = Text(f"drift {'since' if now_s >= 0 else 'in'} {abs(now_s):.0f} s")
        for name, at_s in story.stages().items():
            line.append("  →  ")
            line.append(
                name if at_s is None else f"{name} {at_s:.0f} s",
                style="dim" if at_s is None else "bold green",
            )
        return Panel(line, title=self._title)


def _devices(store: Store, story: Story) -> Table:
    table = Table(expand=True)
    for column in ("device", "slice", "model", "segments", "confidence"):
        table.add_column(column)
    found = fleet.reports(store, story.begun)
    versions, counts = fleet.running(store), fleet.segment_counts(store)
    for name, slice in DEVICES.items():
        curve = [one.confidence for one in found if one.device == name][-_WIDTH:]
        drawn = "".join(_BARS[min(round(value * 8), 8)] for value in curve)
        last = f" {curve[-1]:.2f}" if curve else ""
        table.add_row(name, slice, versions.get(name, ""), str(counts.get(name, 0)), drawn + last)
    return table


def _journal(events: list[Event]) -> Panel:
    text = Text("\n".join(map(str, events[-LINES:])), no_wrap=True, overflow="ellipsis")
    return Panel(text, title="what happened")
