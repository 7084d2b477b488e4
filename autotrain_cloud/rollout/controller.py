"""The rollout itself: facts in, decisions out.

Rules that nothing can break:

* a device has at most one target; it is given the release only while the rollout runs, and only if
  its bucket lies below the limit of the stage;
* after a halt nothing goes on without a person, except back;
* a device that never showed up is not a failure; one that showed up and then said nothing is;
* the state is what the entries make it: the same entries, the same state.

The way back is a release too. Devices refuse a counter below what they have committed, so the
previous model is published again under a new one, and every device that was ever given the bad
release gets that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from autotrain_cloud.rollout import failures, quality
from autotrain_cloud.rollout.log import (
    CONTROLLER,
    Advanced,
    Approved,
    Completed,
    Contacted,
    Decision,
    Entry,
    Event,
    Fact,
    Finished,
    Halted,
    Joined,
    Looked,
    Paused,
    Republished,
    Resumed,
    Reverted,
    Reverting,
    Settled,
    Started,
    Submitted,
    Targeted,
)
from autotrain_cloud.rollout.plan import Plan, Release
from autotrain_cloud.rollout.progress import (
    BAD,
    COMMITTED,
    DONE,
    FAILED,
    TIMED_OUT,
    UPDATING,
    WAITING,
    Devices,
)
from autotrain_cloud.rollout.states import OVER, TABLE, State
from edge_runtime.contract.messages import UpdateReport
from edge_runtime.errors import ConfigError

MINUTE_MS = 60_000
_OUTCOMES = {"committed": COMMITTED, "rolled-back": FAILED, "failed": FAILED}


class Refused(ConfigError):
    """What was asked for does not fit the state of the rollout; nothing has changed."""


class Rollout:
    """One rollout. Every method returns the entries it added to the log: save them, then act."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.state = State.DRAFT
        self.stage = 0
        self.devices = Devices()
        self.entries: list[Entry] = []
        self.republished: Release | None = None
        self.approved_by: list[str] = []
        self.reason = ""  # of the newest decision
        self._stage_ms = 0  # when this stage began
        self._touched_before = 0  # devices that had been given the release by then
        self._settled_ms: int | None = None  # when its devices had the release
        self._targeted_ms = 0  # when devices were last given a target
        self._looks = 0  # of this stage
        self._looked_ms = 0
        self._staked: set[int] = set()  # stages
        self._wealth = quality.Wealth.nothing()
        self._forgiven = (0, 0)  # updates and failures before a person said: go on
        self._back: list[str] = []  # devices to be given the way back, next one last

    @classmethod
    def replay(cls, plan: Plan, entries: Iterable[Entry]) -> Rollout:
        """The rollout that these entries make. An entry may come twice.

        Raises ValueError where one is missing.
        """
        rollout = cls(plan)
        rollout.follow(entries)
        return rollout

    def follow(self, entries: Iterable[Entry]) -> None:
        """What somebody else has added to the log; as for `replay`."""
        for entry in entries:
            if entry.number > len(self.entries):
                raise ValueError(f"rollout {self.plan.id}: entry {len(self.entries)} is missing")
            if entry.number == len(self.entries):
                self._apply(entry)

    # --- what is asked ----------------------------------------------------------------------------

    def target(self, device: str) -> Release | None:
        """What the device should be told to run; `None`: whatever it runs."""
        progress = self.devices.progress.get(device)
        if progress is None:
            return None
        if self.republished is not None and progress.counter == self.republished.counter:
            return self.republished
        if progress.status == WAITING and self.state in (
            State.HALTED, State.REVERTING, State.REVERTED
        ):  # fmt: skip
            return None
        return self.plan.release

    @property
    def to_republish(self) -> bool:
        """Whether the previous model is to be published again; then say `was_republished`."""
        waits = self.state is State.REVERTING and self.republished is None
        return waits and bool(self.devices.touched)

    @property
    def limit(self) -> float:
        """Devices with buckets below may have the release."""
        return self.plan.limits[self.stage]

    def panel(self) -> tuple[list[str], list[str]]:
        """Devices whose telemetry is wanted for the next look: updated, control."""
        progress = self.devices.progress
        updated = [
            device for device in self.devices.touched
            if progress[device].status == COMMITTED
            and progress[device].counter == self.plan.release.counter
        ]  # fmt: skip
        return updated[-quality.PANEL :], self.devices.last(quality.PANEL)

    # --- what people decide -----------------------------------------------------------------------

    def submit(self, who: str, now_ms: int) -> list[Entry]:
        entries = [self._add(Submitted(), who, "submitted", now_ms)]
        return entries + self._start_if_approved(now_ms)

    def approve(self, who: str, now_ms: int) -> list[Entry]:
        """Raises Refused for the author; a second approval of the same person changes nothing."""
        if who == self.plan.author:
            raise Refused(f"{who} wrote this rollout and cannot approve it")
        if who in self.approved_by and self.state is not State.DRAFT:
            return []
        entries = [self._add(Approved(), who, "approved", now_ms)]
        return entries + self._start_if_approved(now_ms)

    def pause(self, who: str, reason: str, now_ms: int) -> list[Entry]:
        return [self._add(Paused(), who, reason, now_ms)]

    def resume(self, who: str, reason: str, now_ms: int) -> list[Entry]:
        """Raises Refused without the name of a person."""
        if not who or who == CONTROLLER:
            raise Refused("only a person may resume a rollout")
        return [self._add(Resumed(), who, reason, now_ms)]

    def halt(self, who: str, reason: str, now_ms: int) -> list[Entry]:
        return [self._add(Halted(), who, reason, now_ms)]

    def go_back(self, who: str, reason: str, now_ms: int) -> list[Entry]:
        """After a halt: devices are to run the previous model again."""
        return [self._add(Reverting(), who, reason, now_ms)]

    def was_republished(self, release: Release, now_ms: int) -> list[Entry]:
        """The previous model is published again. Raises Refused where devices would refuse it."""
        if release.counter <= self.plan.release.counter:
            raise Refused(
                f"release {release.counter} is not above {self.plan.release.counter}, which"
                " devices have: publish the previous model under a new counter"
            )
        if self.republished == release:
            return []
        if self.republished is not None:
            raise Refused(f"it was already published again, as release {self.republished.counter}")
        why = f"{release.version} is published as release {release.counter}"
        return [self._add(Republished(release), CONTROLLER, why, now_ms)]

    # --- what happens -----------------------------------------------------------------------------

    def join(self, devices: Mapping[str, str], now_ms: int) -> list[Entry]:
        """Devices of the fleet, with their time zones. Known ones are left out."""
        new = {name: zone for name, zone in devices.items() if name not in self.devices.zones}
        if not new:
            return []
        return [self._add(Joined(new), CONTROLLER, f"{len(new)} devices", now_ms)]

    def seen(self, devices: Iterable[str], now_ms: int) -> list[Entry]:
        """These are connected: a birth, telemetry, any report."""
        progress = self.devices.progress
        new = tuple(
            device for device in dict.fromkeys(devices)
            if device in progress and progress[device].status == WAITING
            and self.target(device) is not None
        )  # fmt: skip
        if not new:
            return []
        return [self._add(Contacted(new), CONTROLLER, f"{len(new)} devices", now_ms)]

    def report(self, device: str, report: UpdateReport, now_ms: int) -> list[Entry]:
        """What a device says about its update. Old ones, and such of other targets, do nothing."""
        progress = self.devices.progress.get(device)
        place = (report.session, report.sequence)
        if progress is None or report.target_counter != progress.counter:
            return []
        if place <= progress.report:
            return []
        outcome = _OUTCOMES.get(report.state)
        if outcome is None:
            return self.seen([device], now_ms)
        reason = report.error or report.state
        running = report.running
        if outcome == COMMITTED and running and running.release_counter != report.target_counter:
            outcome = FAILED
            reason = f"says committed, but runs release {running.release_counter}"
        event = Finished(device, outcome, progress.counter, *place)
        entries = [self._add(event, CONTROLLER, reason, now_ms)]
        return entries + self._judged(now_ms)

    def look(
        self, changes: Mapping[str, Mapping[str, float]], *, since_ms: int, now_ms: int
    ) -> list[Entry]:
        """Compares the devices of `panel`: {device: change of each metric since before}.

        since_ms: beginning of the hours that were measured. Who was updated within them is in
        neither group; hours that overlap with those of another look are refused.
        """
        if self.state not in (State.RUNNING, State.PAUSED):
            return []
        if since_ms < self._looked_ms:
            raise Refused("these hours were looked at already")
        progress, updated, control = self.devices.progress, [], []
        for device in sorted(changes, key=self.plan.bucket):
            one = progress.get(device)
            if one is None and device in self.devices.zones:
                control.append(changes[device])
            elif one is not None and one.status == COMMITTED and one.since_ms <= since_ms:
                updated.append(changes[device])
        if not updated or not control:
            return []
        factors, shifts = quality.compared(updated, control, self.plan.expected)
        event = Looked(since_ms, len(updated), len(control), factors, shifts)
        why = f"{len(updated)} updated devices, {len(control)} others"
        entries = [self._add(event, CONTROLLER, why, now_ms)]
        return entries + self._judged(now_ms)

    def tick(self, now_ms: int) -> list[Entry]:
        """What is due by now. Call it every few seconds."""
        entries = []
        for device in self.devices.overdue(now_ms - self.plan.timeout_ms):
            one = self.devices.progress[device]
            event = Finished(device, TIMED_OUT, one.counter, *one.report)
            entries.append(self._add(event, CONTROLLER, "said nothing for too long", now_ms))
        entries += self._judged(now_ms)
        if self.state is State.RUNNING:
            entries += self._went_on(now_ms)
        elif self.state is State.REVERTING:
            entries += self._went_back(now_ms)
        return entries

    # --- decisions --------------------------------------------------------------------------------

    def _start_if_approved(self, now_ms: int) -> list[Entry]:
        if self.state is not State.AWAITING_APPROVAL:
            return []
        if len(self.approved_by) < self.plan.approvals:
            return []
        who = ", ".join(self.approved_by) or "nobody, as planned"
        return [self._add(Started(), CONTROLLER, f"approved by {who}", now_ms)]

    def _judged(self, now_ms: int) -> list[Entry]:
        """Halts, if there is a reason to."""
        if self.state not in (State.RUNNING, State.PAUSED):
            return []
        reason = self._too_many_failures() or self._worse()
        if not reason:
            return []
        entries = [self._add(Halted(), CONTROLLER, reason, now_ms)]
        if self.plan.revert:
            entries.append(self._add(Reverting(), CONTROLLER, "halted by itself", now_ms))
        return entries

    def _outcomes(self) -> tuple[int, int]:
        """Updates that ended, and of those the failed ones, since a person last said: go on."""
        counter = self.plan.release.counter
        done, bad = self.devices.count(counter, *DONE), self.devices.count(counter, *BAD)
        return max(0, done - self._forgiven[0]), max(0, bad - self._forgiven[1])

    def _too_many_failures(self) -> str:
        done, bad = self._outcomes()
        if done < self.plan.least_executed:
            return ""
        evidence = failures.log_evidence(max(0, done - bad), bad, self.plan.failure_bound)
        if evidence < -math.log(self.plan.failure_alpha):
            return ""
        timeouts = self.devices.count(self.plan.release.counter, TIMED_OUT)
        return (
            f"{bad} of {done} updates failed ({timeouts} by silence), more than"
            f" {self.plan.failure_bound:.1%}: evidence {_power(evidence)}, needed"
            f" {_power(-math.log(self.plan.failure_alpha))}"
        )

    def _worse(self) -> str:
        if not self._staked:
            return ""
        evidence = self._wealth.log_evidence
        if evidence < -math.log(self.plan.quality_alpha):
            return ""
        side = self._wealth.strongest
        (metric,) = (metric for metric in quality.METRICS if metric.name == side[:-1])
        looks = [e.event for e in self.entries if isinstance(e.event, Looked)]
        last = looks[-1]
        tolerated = metric.fall if side[-1] == "-" else metric.rise
        return (
            f"{metric.title} of updated devices changed by {last.shifts[metric.name]:+.3f} against"
            f" the control group (expected {self.plan.expected.get(metric.name, 0):+.3f}, tolerated"
            f" {side[-1]}{tolerated}): {last.updated} updated, {last.control} control,"
            f" {len(looks)} looks; evidence {_power(evidence)}, needed"
            f" {_power(-math.log(self.plan.quality_alpha))}"
        )

    def _went_on(self, now_ms: int) -> list[Entry]:
        entries = self._give_targets(now_ms)
        if self._settled_ms is None and self._has_settled(now_ms):
            share = self.limit
            why = f"{len(self.devices.touched)} devices, {share:.0%} of the fleet, were served"
            entries.append(self._add(Settled(self.stage), CONTROLLER, why, now_ms))
        if self._settled_ms is None:
            return entries
        last = self.stage == len(self.plan.limits) - 1
        # A stage without devices of its own, as small fleets have them, has nothing to wait for.
        empty = len(self.devices.touched) == self._touched_before
        soaked = empty or now_ms >= self._settled_ms + self.plan.soak_ms
        if last and (soaked or self.plan.holdback):
            why = f"{self.devices.count(self.plan.release.counter, COMMITTED)} devices committed"
            entries.append(self._add(Completed(), CONTROLLER, why, now_ms))
        elif not last and soaked and (empty or self._compared(now_ms)):
            done, bad = self._outcomes()
            why = f"{done} updates, {bad} failed; {self._looks} looks found nothing"
            entries.append(self._add(Advanced(self.stage + 1), CONTROLLER, why, now_ms))
        return entries

    def _compared(self, now_ms: int) -> bool:
        """Enough looks; where no device of the release was ever reached there can be none."""
        if self._looks >= self.plan.least_looks:
            return True
        reached = self.devices.count(self.plan.release.counter, UPDATING, *DONE)
        return not reached and now_ms >= self._stage_ms + self.plan.patience_ms

    def _has_settled(self, now_ms: int) -> bool:
        """Every device of the stage has the target, and most have shown what became of it."""
        if self.devices.left(self.limit):
            return False
        counter = self.plan.release.counter
        waiting = self.devices.count(counter, WAITING)
        running, done = self.devices.count(counter, UPDATING), self.devices.count(counter, *DONE)
        shown = running + done
        patient = now_ms < self._targeted_ms + self.plan.patience_ms
        if patient and shown < self.plan.coverage * (shown + waiting):
            return False
        return done >= self.plan.coverage * shown

    def _allowance(self, now_ms: int) -> int:
        """Devices that may be given a target now; what was not used for a minute is lost."""
        rate = self.plan.devices_per_minute / MINUTE_MS
        elapsed = min(max(0, now_ms - self._targeted_ms), max(MINUTE_MS, math.ceil(1 / rate)))
        return int(rate * elapsed + 1e-9)

    def _give_targets(self, now_ms: int) -> list[Entry]:
        most = self._allowance(now_ms)
        if not most:
            return []
        window = self.plan.window
        zones = [z for z in self.devices.queues() if window is None or window.covers(now_ms, z)]
        chosen = tuple(self.devices.next(self.limit, zones, most))
        if not chosen:
            return []
        event = Targeted(chosen, self.plan.release.counter)
        return [self._add(event, CONTROLLER, f"{len(chosen)} devices", now_ms)]

    def _went_back(self, now_ms: int) -> list[Entry]:
        if not self.devices.touched:
            return [self._add(Reverted(), CONTROLLER, "no device had been given it", now_ms)]
        if self.republished is None:
            return []
        if self._back:
            most = self._allowance(now_ms)
            chosen = tuple(self._back[::-1][:most])
            if not chosen:
                return []
            event = Targeted(chosen, self.republished.counter)
            return [self._add(event, CONTROLLER, f"{len(chosen)} devices back", now_ms)]
        counter = self.republished.counter
        offline = self.devices.count(counter, WAITING)
        if self.devices.count(counter, UPDATING):
            return []
        if offline and now_ms < self._targeted_ms + self.plan.patience_ms:
            return []
        why = (
            f"{self.devices.count(counter, COMMITTED)} devices run {self.republished.version}"
            f" again, {self.devices.count(counter, *BAD)} failed to, {offline} are offline and will"
        )
        return [self._add(Reverted(), CONTROLLER, why, now_ms)]

    # --- the log ----------------------------------------------------------------------------------

    def _add(self, event: Event, who: str, reason: str, now_ms: int) -> Entry:
        entry = Entry(number=len(self.entries), at_ms=now_ms, who=who, reason=reason, event=event)
        self._apply(entry)
        return entry

    def _apply(self, entry: Entry) -> None:
        """The only place where anything changes. Raises Refused."""
        event = entry.event
        if isinstance(event, Fact):
            self._know(event, entry.at_ms)
        else:
            state = TABLE.get((self.state, type(event)))
            if state is None:
                doing = f"while {self.state.value}"
                if self.state in OVER:
                    doing = f"after it was {self.state.value}"
                raise Refused(f"rollout {self.plan.id}: {type(event).__name__} {doing}")
            self._decide(event, entry)
            self.state = state
            if not isinstance(event, Targeted):
                self.reason = entry.reason
        self.entries.append(entry)

    def _know(self, event: Fact, at_ms: int) -> None:
        if isinstance(event, Joined):
            for device, zone in event.devices.items():
                self.devices.join(device, zone, self.plan.bucket(device))
        elif isinstance(event, Contacted):
            for device in event.devices:
                self.devices.contact(device, at_ms)
        elif isinstance(event, Finished):
            place = (event.session, event.sequence)
            self.devices.finish(event.device, event.outcome, at_ms, place)
        else:
            if self.stage not in self._staked:
                self._staked.add(self.stage)
                self._wealth = self._wealth.staked(1 / len(self.plan.limits))
            self._wealth = self._wealth.after(event.factors)
            self._looks += self._settled_ms is not None
            self._looked_ms = at_ms

    def _decide(self, event: Decision, entry: Entry) -> None:
        at_ms = entry.at_ms
        if isinstance(event, Approved):
            self.approved_by.append(entry.who)
        elif isinstance(event, Targeted):
            for device in event.devices:
                self.devices.target(device, event.counter, at_ms)
            if self.state is State.REVERTING:
                del self._back[-len(event.devices) :]
            self._targeted_ms = at_ms
        elif isinstance(event, Settled):
            self._settled_ms = at_ms
        elif isinstance(event, Started | Advanced):
            self.stage = event.stage if isinstance(event, Advanced) else 0
            self._stage_ms = self._targeted_ms = at_ms
            self._touched_before = len(self.devices.touched)
            self._settled_ms, self._looks = None, 0
        elif isinstance(event, Resumed):
            self._resume(at_ms)
        elif isinstance(event, Republished):
            self.republished = event.release
            self._targeted_ms = at_ms
            progress = self.devices.progress
            # Those that run the bad release first; taken from the end.
            self._back = sorted(
                self.devices.touched,
                key=lambda device: progress[device].status in (COMMITTED, UPDATING),
            )

    def _resume(self, at_ms: int) -> None:
        self._targeted_ms = at_ms
        if self.state is State.HALTED:
            counter = self.plan.release.counter
            self._forgiven = (
                self.devices.count(counter, *DONE),
                self.devices.count(counter, *BAD),
            )
            self._wealth, self._staked = quality.Wealth.nothing(), set()


def _power(log: float) -> str:
    return f"10^{log / math.log(10):.1f}"
