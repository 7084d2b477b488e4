"""The updates of one device, from asking what there is to knowing that it works.

    updater = Updater(settings, load=Recognizer.open, self_test=test, report=uplink.report)
    model = updater.start()                 # whatever happened before: one that loads
    while ...:
        model = updater.changed() or model  # before every new stream
        ...                                 # recognise
        updater.observe(health)             # now and then: what probation is judged by
    updater.close()

A thread of low priority asks the repository from time to time.  `check` is one such pass, `hint`
makes the next one come sooner; a hint has no other power, whoever sends it.  All that happens to
the record is written into the audit log and told to `report`, in this order, after it is durable.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import time as clock
from pathlib import Path
from typing import Any, Generic, TypeVar

from edge_runtime.contract.bundle import MANIFEST_NAME, Manifest
from edge_runtime.contract.messages import UpdateReport
from edge_runtime.contract.records import Model, new_id
from edge_runtime.errors import BackendError, BundleError, BundleTampered, ConfigError, EdgeError
from edge_runtime.ota import compat, facts, reports
from edge_runtime.ota.audit import Audit
from edge_runtime.ota.durable import Durable
from edge_runtime.ota.errors import SourceError, TrustError
from edge_runtime.ota.fs import RealFs
from edge_runtime.ota.health import Health, judge
from edge_runtime.ota.http import HttpSource
from edge_runtime.ota.lock import Lock
from edge_runtime.ota.reports import Outcome
from edge_runtime.ota.settings import UpdateSettings
from edge_runtime.ota.slots import Slots
from edge_runtime.ota.trust import Release, Trust
from edge_runtime.ota.update import GOLDEN, Candidate, Event, Record, Refused, State

log = logging.getLogger(__name__)

T = TypeVar("T")

PROGRESS_BYTES = 1 << 16  # received since the last error: the line works, so tries begin anew
NICE = 19  # of the thread: recognising comes first
LOOK_S = 15.0  # how often probation is looked at when nothing else happens


class _Interrupted(Exception):
    """A download must end here, and goes on another time."""


class Updater(Generic[T]):
    """The updates of the device whose folder `settings.state` is. One process at a time."""

    def __init__(
        self,
        settings: UpdateSettings,
        *,
        load: Callable[[Path], T],
        self_test: Callable[[T], object],
        report: Callable[[UpdateReport], object] = lambda report: None,
        session: int = 0,
        precision: str = "auto",
        known: dict[str, str] | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """`load` opens the bundle in a folder with all that makes it usable, an engine that has to
        be built included.  `self_test` raises EdgeError for one that must not run.  `session` and
        `precision` are for reports; `known` facts for what only the caller can tell of the device
        (see `edge_runtime.ota.facts`).

        Raises ConfigError if another process looks after these updates, or a file of the settings
        cannot be read.
        """
        self.settings = settings
        self._load_path, self._test, self._report = load, self_test, report
        self._session, self._precision, self._known = session, precision, known
        self._now, self._monotonic = now, monotonic
        self._rng = rng or random.Random()
        self._sequence = 0
        self._mutex = threading.RLock()  # over slots
        self._wake, self._stop, self._cancel = (threading.Event() for _ in range(3))
        self._thread: threading.Thread | None = None
        self._fresh: tuple[str, T] | None = None  # tested, not yet started
        self._next: T | None = None  # for `changed`
        self._health: Health | None = None  # of what runs
        self._began = monotonic()  # to run it
        self._verdict = ""
        self._hinted: str | None = None
        self._assigned = (-1, -1)  # version of the assignment, release counter
        self._anyway = False  # even outside of the hours
        self._received = 0  # bytes since the last error
        self._offered: Release | None = None  # what this pass is about
        self._last: tuple[float, Outcome] | None = None
        self._written: tuple[float, Outcome] | None = None  # of outcomes, into the audit log
        self._due = 0.0
        self.problem = ""  # why there are no updates, although the device runs

        root = _bytes(settings.root, "root")
        golden = Manifest.from_json(
            _bytes(settings.golden / MANIFEST_NAME, "golden"),
            file=str(settings.golden / MANIFEST_NAME),
        )
        self.family = settings.family or golden.name
        self._lock = Lock(settings.state)
        try:
            self._fs = RealFs(settings.state, {GOLDEN: settings.golden})
            self._audit = Audit(self._fs, now=now)
            self._trust = Trust(
                self._fs, HttpSource(settings.url, settings.line), root=root, now=now
            )
            self._before = Durable(self._fs, "before")
            self._slots: Slots[T] | None = None
            try:
                self._slots = Slots(
                    self._fs,
                    delivered=golden.release_counter,
                    load=self._load,
                    observe=self._changed,
                )
            except ConfigError as error:  # the device runs what it was delivered with
                self.problem = str(error)
                log.error("%s", error)
        except BaseException:
            self._lock.close()
            raise

    # -- for the agent -----------------------------------------------------------------------------

    def start(self, *, background: bool = True) -> T:
        """What runs now. Raises EdgeError if not even the golden bundle loads."""
        with self._mutex:
            model = self._slots.start() if self._slots else self._load(GOLDEN)
            self._began = self._monotonic()
        if background and self.settings.enabled and self._slots:
            self._thread = threading.Thread(target=self._run, name="updates", daemon=True)
            self._thread.start()
        return model

    def changed(self) -> T | None:
        """What is to run from the next stream on, if that is another one than until now."""
        if self._next is None:
            return None
        with self._mutex:
            model, self._next = self._next, None
            self._health, self._began = None, self._monotonic()
            return model

    def observe(self, health: Health) -> None:
        """How the model that runs is doing."""
        self._health = health
        if self._thread:
            self._wake.set()
        else:
            self._judge()

    def hint(self, detail: str = "") -> None:
        """Somebody says that there is something new: a reason to look, and no more than that."""
        self._hinted = detail or "hint"
        self._wake.set()

    def assign(self, version: int, release: int) -> None:
        """The cloud lets this device update up to this release; an older word is ignored."""
        if version >= self._assigned[0] and (version, release) != self._assigned:
            self._assigned = (version, release)
            self.hint(f"release {release} was assigned")

    def cancel(self) -> None:
        """Ends the pass that is under way; what has arrived is kept for the next one."""
        self._cancel.set()

    def close(self) -> None:
        """Ends the thread and lets go of the folder."""
        self._stop.set()
        self._cancel.set()
        self._wake.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        with self._mutex:
            if self._slots:
                self._slots.stop()
                self._slots = None
        self._lock.close()

    def status(self) -> dict[str, Any]:
        """Everything there is to know, as plain values."""
        found: dict[str, Any] = {"family": self.family, "problem": self.problem}
        slots = self._slots
        if slots:
            found |= reports.describe(slots.record, self._fs)
            if slots.record.state is State.PROBATION:
                found["probation"] = self._verdict
        if self._last:
            at, outcome = self._last
            found["last"] = {"at_s": at, "outcome": outcome.kind, "detail": outcome.detail}
        if self._thread:
            found["next_s"] = max(0.0, self._due - self._monotonic())
        return {**found, "trusted_s": self._trust.seen_s, "audit": self._audit.head}

    # -- one pass ----------------------------------------------------------------------------------

    def check(self, cause: str = "asked", *, anyway: bool = False) -> Outcome:
        """One pass, to its end; `anyway`: outside of the hours too. Raises nothing."""
        self._cancel.clear()
        with self._mutex:
            self._anyway = anyway
            if self._slots is None:
                outcome = Outcome("failed", self.problem or "closed")
            else:
                outcome = self._tried(self._slots)
            self._last = (self._now(), outcome)
            self._note(cause, outcome)
            return outcome

    def rollback(self, reason: str) -> T:
        """By an operator's decision: back to the bundle before. Raises Refused if there is none."""
        with self._mutex:
            slots = self._slots
            if slots is None:
                raise Refused(self.problem or "closed")
            if slots.record.state is State.PROBATION:
                slots.fail(reason)
            else:
                if slots.record.state is not State.IDLE:
                    slots.give_up("a rollback was asked for")
                slots.undo(reason)
            model = self._next = slots.start()
            return model

    def _tried(self, slots: Slots[T]) -> Outcome:
        """A pass, again and again as far as that may help."""
        tries = 0
        self._received, self._offered = 0, None
        while True:
            try:
                return self._pass(slots, self._offered)
            except _Interrupted as interrupted:
                return Outcome("stopped", str(interrupted))
            except TrustError as error:
                return Outcome("refused", str(error), error.attack)
            except (SourceError, BundleTampered) as error:
                attack = _attack(error)
                if isinstance(error, BundleTampered):
                    self._offered = None  # perhaps it has been replaced
                elif self._received >= PROGRESS_BYTES:
                    tries = 0
                self._received = 0
                tries += 1
                for_good = isinstance(error, SourceError) and error.for_good
                if for_good or tries > self.settings.retries:
                    return Outcome("refused" if attack else "unreachable", str(error), attack)
                log.info("%s; try %d", error, tries)
                longest = min(self.settings.retry_s * 2**tries, 60 * self.settings.poll_minutes)
                if self._cancel.wait(self._rng.uniform(0, longest)):
                    return Outcome("stopped", f"cancelled after: {error}")
            except BundleError as error:  # signed, arrived whole, and yet no use
                slots.fail(str(error))
                return Outcome("failed", str(error))
            except EdgeError as error:
                return Outcome("failed", str(error))
            except OSError as error:
                return Outcome("failed", f"{self.settings.state}: {error.strerror or error}")

    def _pass(self, slots: Slots[T], release: Release | None = None) -> Outcome:
        """`release`: as it was found by this pass already."""
        if slots.record.state is State.PROBATION:
            return Outcome("probation", self._verdict)
        try:
            self._offered = release = release or self._trust.newest(self.family)
        except SourceError:
            if slots.record.state not in (State.STAGING, State.TESTING):
                raise
            return self._finish(slots)  # it was trusted, and is all here
        candidate = slots.record.candidate
        if candidate and (release is None or release.candidate != candidate):
            slots.give_up("it was withdrawn" if release is None else "another one replaced it")
        if release is None:
            return Outcome("current", f"{self.family}: there is no release")
        if slots.record.state is State.IDLE:
            refused = self._take_up(slots, release)
            if refused:
                return refused
        if slots.record.state is State.DOWNLOADING:
            slots.download(
                self._watched(release),
                release.deltas if self.settings.deltas else None,
                lambda why: self._write("delta refused", outcome="whole file instead", detail=why),
            )
        return self._finish(slots)

    def _take_up(self, slots: Slots[T], release: Release) -> Outcome | None:
        """Offers it; -> why not."""
        record, candidate = slots.record, release.candidate
        if candidate.release == record.release:
            return Outcome("current", f"{candidate.version} (release {candidate.release}) runs")
        if candidate.release < record.floor:
            return Outcome(
                "refused",
                f"release {candidate.release} is below the floor, {record.floor}",
                "rollback",
            )
        if self.settings.assigned and candidate.release > self._assigned[1]:
            return Outcome("current", f"{candidate.version} is not assigned to this device yet")
        needs = dict(release.needs)
        if release.size:
            needs.setdefault("free_bytes", release.size)
        device = facts.this_device(
            self.settings.state,
            release=record.release,
            keep_free=self.settings.least_free_bytes,
            known=self._known,
        )
        if why := compat.refusals(needs, device):
            return self._incompatible(release, "; ".join(why))
        if not self._may():
            return Outcome("stopped", f"{candidate.version} waits for {self.settings.hours}")
        try:
            slots.offer(candidate, self._attempt())
        except Refused as error:
            return Outcome("current", str(error))
        return None

    def _incompatible(self, release: Release, why: str) -> Outcome:
        outcome = Outcome("refused", f"{release.candidate.version}: {why}", "wrong device")
        if self._written is None or self._written[1] != outcome:
            self._emit("failed", self._attempt(), release.candidate, why)
        return outcome

    def _finish(self, slots: Slots[T]) -> Outcome:
        """All is here: the rest needs no network."""
        if not self._may():
            raise _Interrupted(f"waits for {self.settings.hours}")
        if slots.record.state is State.STAGING:
            slots.stage()
        candidate, running = slots.record.candidate, slots.record.running
        assert candidate is not None  # while TESTING
        if self._health:
            self._remember(candidate.release, self._health)
        if not slots.test(self._tested):
            return Outcome("failed", slots.record.failed[-1].reason)
        model = slots.start()
        if slots.record.running == running:
            return Outcome("failed", slots.record.failed[-1].reason)
        self._next, self._verdict = model, "it is about to run"
        return Outcome("switched", f"{candidate.version} (release {candidate.release})")

    def _tested(self, model: T) -> None:
        try:
            self._test(model)
        except EdgeError:
            raise
        except Exception as error:  # whatever a new model makes go wrong is held against it
            raise BackendError(f"self-test: {type(error).__name__}: {error}") from error
        slots = self._slots
        assert slots is not None
        self._fresh = (slots.record.free, model)

    def _load(self, slot: str) -> T:
        fresh, self._fresh = self._fresh, None
        if fresh and fresh[0] == slot:  # an engine may have taken minutes
            return fresh[1]
        try:
            return self._load_path(self._fs.path(slot))
        except EdgeError:
            raise
        except Exception as error:  # likewise
            raise BackendError(f"{slot}: {type(error).__name__}: {error}") from error

    def _watched(self, release: Release) -> Callable[[str, str, int], Iterator[bytes]]:
        def fetch(name: str, sha256: str, start: int) -> Iterator[bytes]:
            for block in release.fetch(name, sha256, start):
                if self._cancel.is_set():
                    raise _Interrupted("cancelled")
                if not self._may():
                    raise _Interrupted(f"goes on at {self.settings.hours}")
                self._received += len(block)
                yield block

        return fetch

    def _may(self) -> bool:
        hours = self.settings.hours
        if self._anyway or hours is None:
            return True
        local = time.localtime(self._now())
        return hours.cover(clock(local.tm_hour, local.tm_min, local.tm_sec))

    def _attempt(self) -> str:
        return new_id(int(self._now() * 1000), os.urandom(10))

    # -- probation ---------------------------------------------------------------------------------

    def _judge(self) -> None:
        with self._mutex:
            slots = self._slots
            if slots is None or self._next is not None:
                return
            record = slots.record
            if record.state is not State.PROBATION or record.candidate is None:
                return
            minutes = (self._monotonic() - self._began) / 60
            verdict = judge(
                self.settings.probation,
                self._health or Health(),
                self._remembered(record.candidate.release),
                minutes,
            )
            self._verdict = verdict.reason
            if verdict.outcome == "keep":
                slots.commit()
            elif verdict.outcome == "fail":
                slots.fail(verdict.reason)
                self._next = slots.start()

    def _remember(self, release: int, health: Health) -> None:
        """How the model before a release did."""
        self._before.load_or_nothing()
        content = {"release": release, "health": health.to_json()}
        self._before.save(json.dumps(content).encode())

    def _remembered(self, release: int) -> Health | None:
        for content in self._before.load_or_nothing()[:1]:
            found = json.loads(content)
            if found["release"] == release:
                return Health(**found["health"])
        return None

    # -- what is told ------------------------------------------------------------------------------

    def _changed(self, before: Record, event: Event, after: Record) -> None:
        state = reports.state_of(before, event, after)
        candidate = before.candidate or after.candidate or self._ran(before)
        reason = reports.reason_of(before, event, after)
        if state is None:
            if reason:
                self._write(type(event).__name__.lower(), outcome="left", detail=reason)
            return
        running = self._fs_model(after)
        self._write(
            state,
            release=candidate.release,
            version=candidate.version,
            manifest=candidate.manifest_sha256,
            metadata=self._trust.digests() if state in ("downloading", "committed") else {},
            outcome=f"release {after.release} runs",
            detail=reason,
        )
        self._emit(state, before.attempt or after.attempt, candidate, reason, running)

    def _ran(self, record: Record) -> Candidate:
        """What ran, as if it were a candidate."""
        ran = self._fs_model(record)
        digest = ran.manifest_sha256.hex() if ran else ""
        return Candidate(record.release, ran.version if ran else "unknown", digest)

    def _emit(
        self,
        state: str,
        attempt: str,
        candidate: Candidate,
        error: str,
        running: Model | None = None,
    ) -> None:
        slots = self._slots
        if running is None and slots:
            running = self._fs_model(slots.record)
        try:
            self._report(
                UpdateReport(
                    session=self._session,
                    sequence=self._sequence,
                    attempt=attempt or self._attempt(),
                    target=candidate.version,
                    target_counter=candidate.release,
                    state=state,  # type: ignore[arg-type]
                    running=running,
                    error=error.encode()[:500].decode(errors="ignore"),
                    at_ms=int(self._now() * 1000),
                )
            )
        except Exception:  # an update does not fail because nobody can be told of it
            log.exception("the report %s of %s could not be given", state, candidate.version)
        self._sequence += 1

    def _fs_model(self, record: Record) -> Model | None:
        return reports.model(self._fs, record.running, self._precision)

    def _note(self, cause: str, outcome: Outcome) -> None:
        """Refusals and failures go into the audit log, the same one once a day; and every hint."""
        now, written = self._now(), self._written
        new = written is None or written[1] != outcome or now - written[0] > 86_400
        told = outcome.kind in ("refused", "failed") and new
        lost = outcome.kind == "unreachable" and (
            written is None or written[1].kind != "unreachable"
        )
        if told or lost or cause.startswith("hint"):
            self._write(
                outcome.kind, cause=cause, attack=outcome.attack or "", detail=outcome.detail
            )
            self._written = (now, outcome)
        log.info("updates: %s: %s", outcome.kind, outcome.detail)

    def _write(self, what: str, **facts_: Any) -> None:
        try:
            self._audit.write(what, **facts_)
        except OSError as error:  # a full disk must not keep a device from rolling back
            log.error("audit: %s %s: %s", what, facts_, error)

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        except OSError as error:
            log.info("the priority of updates stays as it is: %s", error)
        settings, uniform = self.settings, self._rng.uniform
        self._due = self._monotonic() + uniform(0, settings.hint_spread_s)
        looked = -settings.hint_spread_s
        hinted: str | None = None
        while not self._stop.is_set():
            wait = min(LOOK_S, max(0.0, self._due - self._monotonic()))
            self._wake.wait(wait)
            self._wake.clear()
            if self._stop.is_set():
                return
            try:
                self._judge()
                if self._hinted is not None:  # many hints are one reason to look
                    hinted, self._hinted = self._hinted, None
                    earliest = max(self._monotonic(), looked + settings.hint_spread_s)
                    self._due = min(self._due, earliest + uniform(0, settings.hint_spread_s))
                if self._monotonic() >= self._due:
                    self.check(f"hint: {hinted}" if hinted is not None else "poll")
                    hinted = None
                    looked = self._monotonic()
                    spread = settings.poll_jitter
                    self._due = looked + 60 * settings.poll_minutes * uniform(
                        1 - spread, 1 + spread
                    )
            except Exception:  # the device goes on recognising, and looks again later
                log.exception("updates: this should not have happened")
                self._due = self._monotonic() + 60 * settings.poll_minutes


def _attack(error: SourceError | BundleTampered) -> str | None:
    """What it looks like, by its name in the TUF specification."""
    if isinstance(error, SourceError):
        return error.attack
    return "endless data" if error.problem == "does not end" else "arbitrary software"


def _bytes(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"update: {key}: {path}: cannot be read: {error.strerror}") from error
