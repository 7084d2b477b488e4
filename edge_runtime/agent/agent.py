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
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime import __version__
from edge_runtime.agent import state as remembered
from edge_runtime.agent.clock import clock_is_set, now_ms
from edge_runtime.agent.config import AgentSettings, BrokerSettings
from edge_runtime.agent.consent import Consents
from edge_runtime.agent.control import Answer, Control
from edge_runtime.agent.decisions import DecisionLog
from edge_runtime.agent.desk import Desk
from edge_runtime.agent.ear import Ear
from edge_runtime.agent.gauges import providers, read_gauges
from edge_runtime.agent.models import FixedModel, Models, UpdatedModels, open_recognizer
from edge_runtime.agent.outbox import Outbox, Stats
from edge_runtime.agent.problems import Problems
from edge_runtime.agent.recorder import Recorder
from edge_runtime.agent.requests import Requests
from edge_runtime.agent.sources import Source, open_source
from edge_runtime.agent.systemd import notify, watchdog_s
from edge_runtime.agent.telemetry import Meter
from edge_runtime.contract.messages import Assignment, Birth, Message
from edge_runtime.contract.records import Model
from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.events import Event

if TYPE_CHECKING:
    from edge_runtime.agent.mqtt import Link
    from edge_runtime.agent.prometheus import Exporter
    from edge_runtime.agent.renewal import Renewal

log = logging.getLogger("edge_runtime.agent")

FIRST_S = 1.0  # until the first look at everything, and until a broken ear listens again
OBSERVE_S = 5.0  # between two looks at health and consent; no thread wakes more often for nothing
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
        linger_s: float = 3.0,
    ) -> None:
        """`linger_s`: how long, in the end, what can still be sent is waited for.

        Raises ConfigError for what only the device can check, and for a second agent.
        """
        self.settings = settings
        self.problems = Problems()
        self._stop = threading.Event()
        self._over = threading.Event()  # stopped, or all files were heard
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
            self._recorder,
            Meter(self.session),
            self.problems,
            show=show,
            kept=self._kept,
            patient=bool(settings.audio.files) and not settings.audio.speed,
        )
        self.device = _device(settings)
        self._requests = Requests(
            consents=self.consents,
            outbox=lambda: self._outbox,
            problems=self.problems,
            commands={
                "report": self._command_report,
                "status": self._command_status,
                "check-update": self._command_check_update,
            },
            assign=self._assign,
            say=self._say,
        )
        self._link = None if settings.broker is None else self._new_link(settings.broker)
        self._renewal = self._new_renewal()
        self._models = models or self._new_models()
        self._source = source or open_source(settings.audio, self.problems, self._stop)
        self._gauges = providers()
        self._ear_at = time.monotonic()
        self._linger_s = linger_s
        self._born: tuple[Model | None, str | None] = None, None  # what the last birth named

    def _new_models(self) -> Models:
        settings, update = self.settings, self.settings.update
        if update is None:
            return FixedModel(lambda: open_recognizer(settings.recognizer))
        from edge_runtime.ota.selftest import self_test
        from edge_runtime.ota.updater import Updater

        updater = Updater(
            update,
            load=lambda bundle: open_recognizer(settings.recognizer, bundle),
            self_test=lambda recognizer: self_test(recognizer, update.test),
            report=self._say,
            session=self.session,
            precision=settings.recognizer.precision,
        )
        return UpdatedModels(updater)

    def _new_link(self, broker: BrokerSettings) -> Link:
        from edge_runtime.agent.mqtt import Link

        return Link(
            broker,
            device=self.device,
            session=self.session,
            outbox=lambda: self._outbox,
            birth=self._birth,
            hand_on=self._requests.handle,
            problems=self.problems,
        )

    def _new_renewal(self) -> Renewal | None:
        broker, link = self.settings.broker, self._link
        if broker is None or link is None or not broker.enrolment or broker.certificate is None:
            return None
        from edge_runtime.agent.identity import Identity
        from edge_runtime.agent.renewal import Renewal

        return Renewal(
            broker.enrolment,
            Identity(broker.certificate.parent),
            problems=self.problems,
            renewed=link.reconnect,
            rng=random.Random(secrets.randbits(64)),
        )

    def run(self) -> None:
        """Until `stop` is called or the files are over, everything is recorded and said."""
        ear = threading.Thread(target=self._listen, name="ear", daemon=True)
        control = self._open_control()
        prometheus = self._open_prometheus()
        with self.problems.watching("withdrawal"):
            self._withdraw()  # before anything is sent
        self._desk.start()
        if self._link is not None:
            self._link.start()
        ear.start()
        notify("READY=1")
        try:
            self._keep_house()
        finally:
            notify("STOPPING=1")
            self._stop.set()
            ear.join()
            self._desk.stop()
            self._leave()
            parts = (control, prometheus, self._renewal, self._decisions, self._models)
            for each in (*parts, self._outbox):
                if each is not None:
                    each.close()

    def _leave(self) -> None:
        """The last reports, what else there is time for, and a goodbye."""
        self._safely(self._report)
        if self._link is None:
            return
        self._link.wake()
        until = time.monotonic() + self._linger_s
        while time.monotonic() < until and self._unsent():
            time.sleep(0.05)
        self._link.stop()

    def _unsent(self) -> bool:
        """Whether something could still be sent: not where the broker cannot be reached."""
        if self._link is None or self._link.status()["state"] == "down":
            return False
        stats = self._stats()
        waits = stats is not None and (stats.queued or stats.unreported)
        return bool(waits or self._link.waiting)

    def stop(self) -> None:
        """Finish the utterance, say goodbye, end. From any thread or signal handler."""
        self._stop.set()
        self._over.set()

    def _kept(self) -> None:
        if self._link is not None:
            self._link.wake()

    def _say(self, message: Message) -> None:
        if self._link is not None:
            self._link.say(message)

    def _birth(self) -> Birth:
        self._born = model, consent = self._bearing()
        return Birth(
            session=self.session,
            connected_ms=now_ms(),
            clock_is_set=clock_is_set(),
            agent=__version__,
            model=model,
            hardware=self.settings.device.hardware[:500],
            time_zone=self.settings.sampling.time_zone,
            consent=consent,
        )

    def _bearing(self) -> tuple[Model | None, str | None]:
        """What may change between two births: the model, and the consent's id."""
        consent = self.consents.current
        return self._desk.running, consent.id if consent and consent.granted else None

    def _open_control(self) -> Control | None:
        answers: dict[str, Answer] = {
            "status": lambda request: self.status(),
            "explain": self._explain,
            "erase": lambda request: {"segments": self._erase(request)},
            "update": self._update,
        }
        try:
            return Control(self.settings.device.state, answers)
        except StorageError as error:
            self.problems.report("control", error)
            return None

    def _open_prometheus(self) -> Exporter | None:
        telemetry = self.settings.telemetry
        if not telemetry.prometheus:
            return None
        from edge_runtime.agent.prometheus import Exporter

        try:
            return Exporter(telemetry, self._desk.totals, self._measured)
        except OSError as error:
            self.problems.report("prometheus", f"{telemetry.prometheus_address}: {error}")
            return None

    def _measured(self) -> dict[str, float]:
        """Gauges, also of what waits."""
        stats = self._stats()
        found = read_gauges(self.settings.device.state, self._gauges)
        if stats is not None:
            found |= {
                "queued": stats.queued,
                "queued_bytes": stats.queued_bytes,
                "dead": stats.dead,
            }
        return found

    def _erase(self, request: Mapping[str, Any]) -> int:
        if request.get("all"):
            return self._requests.erase_all()
        segments, consents = request.get("segments", []), request.get("consents", [])
        return self._requests.erase(segments=map(str, segments), consents=map(str, consents))

    def _explain(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Whoever asks reads the file; it may be behind."""
        self._decisions.write()
        return {}

    def _command_report(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        self._report()
        return {}

    def _command_check_update(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """A hint, and no more than that: what is signed decides."""
        self._updates().updater.hint("command")
        return {}

    def _assign(self, message: Assignment) -> None:
        """A retained message comes at every connection, so it need not be kept."""
        if isinstance(self._models, UpdatedModels):
            self._models.updater.assign(message.version, message.release_counter)

    def _updates(self) -> UpdatedModels:
        if not isinstance(self._models, UpdatedModels):
            raise ConfigError("updates are off: agent.toml has no [update]")
        return self._models

    def _update(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an operator at the device wants of the updater: check, status, rollback."""
        updater = self._updates().updater
        match request.get("action"):
            case "check":
                updater.hint("operator")
            case "rollback":
                updater.rollback(str(request.get("reason", "an operator wants it")))
            case "status":
                pass
            case other:
                raise ConfigError(f"action: check, rollback or status, not {other!r}")
        return {"update": updater.status()}

    def _command_status(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "session": self.session,
            "model": shown(self._desk.running),
            "problems": self.problems.current(),
        }

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
                self._stop.wait(FIRST_S)
        self._over.set()

    # Housekeeping.

    def _keep_house(self) -> None:
        now = time.monotonic()
        observed = tidied = now - TIDY_S
        reported = now
        beat = watchdog_s() or OBSERVE_S
        pause = FIRST_S
        while not self._over.wait(min(pause, beat)):
            now, pause = time.monotonic(), OBSERVE_S
            if now - self._ear_at < STUCK_S:
                notify("WATCHDOG=1")
            if now - observed >= OBSERVE_S:
                observed = now
                self._safely(self._observe)
                self._safely(self._decisions.write)
            if now - tidied >= TIDY_S:
                tidied = now
                self._safely(self._tidy)
            if now - reported >= self.settings.telemetry.interval_s:
                reported = now
                self._safely(self._report)

    def _safely(self, work: Callable[[], None]) -> None:
        """No mistake of ours may end the housekeeping."""
        try:
            work()
        except Exception as error:
            log.debug("housekeeping failed", exc_info=True)
            self.problems.report("housekeeping", repr(error))

    def _observe(self) -> None:
        with self.problems.watching("consent"):
            self.consents.refresh()
        with self.problems.watching("withdrawal"):
            self._withdraw()
        with self.problems.watching("update"):
            self._models.observe(self._desk.health())
        if self._link is not None and self._bearing() != self._born:
            self._link.say(self._birth())

    def _tidy(self) -> None:
        if self._outbox is None:
            self._open_outbox()
        if self._outbox is not None:
            with self.problems.watching("outbox"):
                self._outbox.expire(now_ms=now_ms())
        if self._renewal is not None:
            self._renewal.look(time.time())
        if clock_is_set():
            self.problems.clear("clock")
        else:
            self.problems.report("clock", "nobody has set it: times in segments are marked unsure")

    def _withdraw(self) -> None:
        """What was recorded under a consent that has ended never leaves the device.

        It ends by a word of the cloud, or with its file, also while the agent did not run.
        """
        now = self.consents.current
        if self._outbox is None or self.consents.is_unreadable:
            return
        held = self._outbox.consents()
        if self.settings.consent.file is not None:
            ended = [each for each in held if now is None or each != now.id or not now.granted]
        else:
            ended = [
                each for each in held if now is not None and each == now.id and not now.granted
            ]
        for each in ended:
            self._requests.withdraw(each)

    def _report(self) -> None:
        gauges = read_gauges(self.settings.device.state, self._gauges)
        for report in self._desk.flush(self._stats(), gauges):
            self._say(report)

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
            "device": self.device,
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
            "uplink": None if self._link is None else self._link.status(),
            "certificate": None if self._renewal is None else self._renewal.status(),
            "problems": self.problems.current(),
        }


def _device(settings: AgentSettings) -> str:
    """The name in the certificate, else in the settings. Raises ConfigError."""
    if settings.broker is None or settings.broker.certificate is None:
        return settings.device.name
    from edge_runtime.agent.mqtt import device_of

    return device_of(settings.broker) or settings.device.name


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
