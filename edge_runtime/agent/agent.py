"""The agent: recognising, recording, uploading, updating and looking after all of them.

    agent = Agent(settings)
    agent.run()                       # until `stop`, or the end of the files that are its sound

Threads: `ear` (sound to words), `recorder` (words to the outbox), `uplink` (outbox to the cloud),
`control` (what `vitconformer agent status` asks), and this one, which keeps house. None waits for
another, and no failure of one ends the agent: it stands in the log and in the status, and
recognising goes on.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from edge_runtime import __version__
from edge_runtime.agent import state as remembered
from edge_runtime.agent.clock import clock_is_set, now_ms
from edge_runtime.agent.config import AgentSettings
from edge_runtime.agent.consent import Consents
from edge_runtime.agent.decisions import DecisionLog
from edge_runtime.agent.desk import Desk
from edge_runtime.agent.ear import Ear
from edge_runtime.agent.gauges import providers, read_gauges
from edge_runtime.agent.models import FixedModel, Models, open_recognizer
from edge_runtime.agent.outbox import Outbox, Stats
from edge_runtime.agent.problems import Problems
from edge_runtime.agent.recorder import Recorder
from edge_runtime.agent.sources import Source, open_source
from edge_runtime.agent.systemd import notify, watchdog_s
from edge_runtime.agent.telemetry import Meter
from edge_runtime.contract.records import Model
from edge_runtime.errors import StorageError
from edge_runtime.events import Event

log = logging.getLogger("edge_runtime.agent")

TICK_S = 1.0
OBSERVE_S = 5.0  # between two looks at health and consent
TIDY_S = 60.0  # between two looks at outbox, disk and clock
STUCK_S = 60.0  # without a block, after which the ear counts as stuck and the watchdog may bite


class Agent:
    """See the module."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        models: Models | None = None,
        source: Source | None = None,
        show: Callable[[Event], None] | None = None,
    ) -> None:
        """Raises ConfigError for what only the device can check, and for a second agent."""
        self.settings = settings
        self.problems = Problems()
        self._stop = threading.Event()
        self._heard_all = threading.Event()
        state = settings.device.state
        self._begun_ms = now_ms()
        self._outbox: Outbox | None = None
        self._open_outbox()
        try:
            self.session = remembered.next_session(state)
        except StorageError as error:
            self.problems.report("state", error)
            self.session = (remembered.last_session(state) or 0) + 1
        self.consents = Consents(state, settings.consent.file)
        with self.problems.watching("consent"):
            self.consents.refresh()
        self._decisions = DecisionLog(state, settings.recording.decisions)
        self._recorder = Recorder(
            settings,
            session=self.session,
            outbox=lambda: self._outbox,
            consent=lambda: self.consents.current,
            problems=self.problems,
            log=self._decisions,
        )
        self._desk = Desk(
            self._recorder, Meter(self.session), self.problems, show=show, kept=self._kept
        )
        self._models = models or FixedModel(lambda: open_recognizer(settings.recognizer))
        self._source = source or open_source(settings.audio, self.problems, self._stop)
        self._gauges = providers()
        self._ear_at = time.monotonic()

    def run(self) -> None:
        """Until `stop` is called or the files are over, everything is recorded and said."""
        ear = threading.Thread(target=self._listen, name="ear", daemon=True)
        self._desk.start()
        ear.start()
        notify("READY=1")
        try:
            self._keep_house()
        finally:
            notify("STOPPING=1")
            self._stop.set()
            ear.join()
            self._desk.stop()
            self._decisions.close()
            self._models.close()
            if self._outbox is not None:
                self._outbox.close()

    def stop(self) -> None:
        """Finish the utterance, say goodbye, end. From any thread or signal handler."""
        self._stop.set()

    def _kept(self) -> None:
        """Something new lies in the outbox."""

    # The ear's thread.

    def _listen(self) -> None:
        settings = self.settings
        ear = Ear(
            self._models,
            self._desk,
            self.problems,
            precision=settings.recognizer.precision,
            margin_s=settings.recording.margin_s,
            deletion_above=settings.sampling.deletion_above,
        )
        ear.start()
        while not self._stop.is_set():
            try:
                for _, blocks in self._source.streams(ear.block_s):
                    for block in blocks:
                        ear.push(block)
                        self._ear_at = time.monotonic()
                    ear.end()
                break
            except Exception as error:  # no mistake of ours may end the listening
                log.debug("the ear failed", exc_info=True)
                self.problems.report("ear", f"failed and was begun anew: {error!r}")
                self._stop.wait(TICK_S)
        self._heard_all.set()

    # Housekeeping.

    def _keep_house(self) -> None:
        now = time.monotonic()
        observed = tidied = now - TIDY_S
        reported = now
        beat = watchdog_s()
        while not self._stop.wait(min(TICK_S, beat or TICK_S)):
            now = time.monotonic()
            if now - self._ear_at < STUCK_S:
                notify("WATCHDOG=1")
            if self._heard_all.is_set():
                return
            if now - observed >= OBSERVE_S:
                observed = now
                self._observe()
            if now - tidied >= TIDY_S:
                tidied = now
                self._tidy()
            if now - reported >= self.settings.telemetry.interval_s:
                reported = now
                self._report()

    def _observe(self) -> None:
        with self.problems.watching("consent"):
            self.consents.refresh()
        with self.problems.watching("update"):
            self._models.observe(self._desk.health())

    def _tidy(self) -> None:
        if self._outbox is None:
            self._open_outbox()
        if self._outbox is not None:
            with self.problems.watching("outbox"):
                self._outbox.expire(now_ms=now_ms())
        if clock_is_set():
            self.problems.clear("clock")
        else:
            self.problems.report("clock", "nobody has set it: times in segments are marked unsure")

    def _report(self) -> None:
        self._desk.flush(self._stats(), read_gauges(self.settings.device.state, self._gauges))

    def _open_outbox(self) -> None:
        try:
            self._outbox = Outbox.open(
                self.settings.device.state, quota_bytes=self.settings.outbox.quota_mb * 1_000_000
            )
        except StorageError as error:
            self.problems.report("outbox", error)
        else:
            self.problems.clear("outbox")

    def _stats(self) -> Stats | None:
        try:
            return None if self._outbox is None else self._outbox.stats()
        except StorageError as error:
            self.problems.report("outbox", error)
            return None

    # What people ask.

    def status(self) -> dict[str, Any]:
        """How it is, as JSON values."""
        stats = self._stats()
        consent = self.consents.current
        total = self._desk.totals()
        return {
            "running": True,
            "pid": os.getpid(),
            "agent": __version__,
            "device": self.settings.device.name,
            "session": self.session,
            "since_ms": self._begun_ms,
            "model": shown(self._desk.running),
            "update": self._models.status(),
            "health": self._desk.health().to_json(),
            "audio_s": round(total.audio_s, 1),
            "missed_s": round(self._desk.missed_s, 1),
            "utterances": total.utterances,
            "selected": dict(total.selected),
            "vetoed": dict(total.vetoed),
            "crashes": total.crashes,
            "outbox": None if stats is None else dataclasses.asdict(stats),
            "budget": dataclasses.asdict(self._recorder.budget),
            "consent": None
            if consent is None
            else {"id": consent.id, "version": consent.version, "granted": consent.granted},
            "problems": self.problems.current(),
        }


def shown(model: Model | None) -> dict[str, Any] | None:
    """A model as JSON values."""
    if model is None:
        return None
    return {
        "name": model.name,
        "version": model.version,
        "release_counter": model.release_counter,
        "precision": model.precision,
        "manifest_sha256": model.manifest_sha256.hex(),
    }
