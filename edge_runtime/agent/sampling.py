"""Which utterances are kept for upload, and why.

    decision = decide(policy, consent, candidate, budget, now_ms=now)
    if decision.upload:
        ...                                   # put it into the outbox
    budget = decision.budget                  # the caller keeps it, also across restarts

Two kinds of utterance go up: those the recogniser is unsure of, which are worth learning from, and
a random sample of all, without which nothing could be measured: the unsure ones alone say little
about the rest. Rules that select are `unsure`, `deletion` and `random`; all others can veto.

**Weights.** `inclusion_probability` is the probability, given everything that happened before, that
an utterance like this one is sent. The mean of any quantity is estimated without bias by weighting
each segment with its inverse (Horvitz & Thompson, 1952), because the probability depends on the
past and the utterance, and the dice are thrown for every utterance alike. `random_probability` is
that of the random sample alone: the segments with the reason `random` are a sample of their own.

**Budgets** count a local day. The random sample has a share of its own. Once half of that is spent
its probability falls in proportion to what is left, so it thins out through the day instead of
ending at noon. Where it is zero nonetheless (out of budget, quiet hours, no consent) an utterance
is `unsampled`: a segment sent for another reason stands for itself alone, and the estimate is one
for all utterances but these, which telemetry counts.

Nothing is kept without a consent. The dice are a hash of the segment's id: the same utterance,
asked about again, gets the same answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, time, timezone
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge_runtime.contract.messages import Consent
from edge_runtime.errors import ConfigError

LEAST_PROBABILITY = 1e-6  # rarer than that is never: no weight grows beyond a million


@dataclass(frozen=True, slots=True)
class Quiet:
    """Hours of local time in which nothing is kept; over midnight if `end` is before `start`."""

    start: time
    end: time  # the first moment after it

    def covers(self, local: datetime) -> bool:
        """By the clock on the wall: an hour that comes twice is quiet twice."""
        clock = local.time()
        if self.start <= self.end:
            return self.start <= clock < self.end
        return clock >= self.start or clock < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M} to {self.end:%H:%M}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPolicy:
    """What is worth sending. Raises ConfigError naming the field."""

    confidence_below: float = 0.6  # calibrated confidence of the utterance; 0 switches it off
    deletion_above: float = 0.5  # deletion score; 1 switches it off
    random_share: float = 0.01  # of all utterances
    daily_segments: int = 200  # at most, of a local day
    daily_bytes: int = 20_000_000  # likewise, as they are sent
    random_budget: float = 0.25  # share of both that belongs to the random sample
    min_speech_s: float = 0.5  # shorter utterances are not kept
    max_speech_s: float = 30.0  # nor longer ones
    quiet: tuple[Quiet, ...] = ()  # hours of local time in which nothing is kept
    time_zone: str = "UTC"  # IANA name: quiet hours and days are local
    seed: str = ""  # of the dice; another one draws another sample

    def __post_init__(self) -> None:
        for name in ("confidence_below", "deletion_above", "random_share", "random_budget"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"sampling: {name}: 0 to 1, not {getattr(self, name)}")
        for name in ("daily_segments", "daily_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"sampling: {name}: 0 or more, not {getattr(self, name)}")
        if not 0 <= self.min_speech_s <= self.max_speech_s:
            raise ConfigError("sampling: min_speech_s: from 0 to max_speech_s seconds")
        self.zone()

    def zone(self) -> ZoneInfo:
        """The time zone."""
        try:
            return ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ConfigError(
                f"sampling: time_zone: {self.time_zone!r} is not known here: give an IANA name such"
                " as Europe/Berlin, or install tzdata"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An utterance that could be sent."""

    id: str  # of the segment it would become
    captured_ms: int  # start of its audio, since 1970
    speech_s: float
    confidence: float  # calibrated, 0..1
    deletion_score: float  # 0..1
    size: int  # bytes it would take
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What was spent on this day. Plain numbers, for the caller to keep."""

    day: str = ""  # local date
    segments: int = 0  # for being unsure
    bytes: int = 0
    random_segments: int = 0  # for the random sample
    random_bytes: int = 0


class Rule(NamedTuple):  # not a dataclass: every utterance makes nine
    """What one rule made of the utterance, and the numbers it went by."""

    name: str
    outcome: Literal["selects", "passes", "vetoes"]
    detail: str

    def __str__(self) -> str:
        return f"{self.name} {self.outcome}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether an utterance is kept for upload, with the outcome of every rule."""

    id: str
    upload: bool
    reasons: tuple[str, ...]  # rules that selected it and had the budget
    inclusion_probability: float  # of an utterance like it; may be 0 if it is not kept
    random_probability: float  # of the random sample alone
    value: float  # 0..1, for the outbox: what to part with last
    rules: tuple[Rule, ...]
    budget: Budget  # after this decision

    @property
    def unsampled(self) -> bool:
        """Whether the random sample could not have reached it, so that no weight stands for it."""
        return self.random_probability == 0

    def __str__(self) -> str:
        """One line that says why."""
        if self.upload:
            why = _join(rule for rule in self.rules if rule.name in self.reasons)
            return (
                f"kept for upload, with a probability of {self.inclusion_probability:.3g} ({why})"
            )
        selecting = [rule for rule in self.rules if rule.outcome == "selects"]
        if not selecting:
            return f"not kept: nothing selects it ({_join(self.rules[-3:])})"
        vetoes = _join(rule for rule in self.rules if rule.outcome == "vetoes")
        return f"not kept: {vetoes} (although {_join(selecting)})"


def _join(rules: Iterable[Rule]) -> str:
    return "; ".join(f"{rule.name}: {rule.detail}" for rule in rules)


Redactor = Callable[[Candidate], str | None]  # why this must not leave the device, or None


def decide(
    policy: SamplingPolicy,
    consent: Consent | None,
    candidate: Candidate,
    budget: Budget,
    *,
    redactor: Redactor | None = None,
) -> Decision:
    """The decision about one utterance. Every rule is asked, whatever the others say."""
    local = datetime.fromtimestamp(candidate.captured_ms / 1000, timezone.utc).astimezone(
        policy.zone()
    )
    budget = _of_day(budget, local.date().isoformat())
    gates = (
        _consent(consent, candidate),
        _speech(policy, candidate),
        _quiet(policy, local),
        _redaction(redactor, candidate),
    )
    allowed = all(rule.outcome == "passes" for rule in gates)
    purposes = ("training", "monitoring") if consent is None else consent.purposes

    affords = _affords(policy, candidate, budget)
    learn = allowed and affords.outcome == "passes"
    worth = _for(purposes, "training", _unsure(policy, candidate), _deletion(policy, candidate))
    learning = [rule.name for rule in worth if learn and rule.outcome == "selects"]

    share = 0.0
    if allowed and "monitoring" in purposes:
        share = random_share(policy, budget, candidate.size)
    drawn = draw(policy.seed, candidate.id) < share
    [random] = _for(purposes, "monitoring", _random(policy, candidate, share))
    return Decision(
        id=candidate.id,
        upload=bool(learning) or drawn,
        reasons=(*learning, *(["random"] if drawn else [])),
        inclusion_probability=1.0 if learning else share,
        random_probability=share,
        value=_value(policy, candidate, drawn=drawn),
        rules=(*gates, affords, *worth, random),
        budget=_spent(budget, candidate.size, learning=bool(learning), drawn=drawn),
    )


def draw(seed: str, id: str) -> float:
    """The dice of a segment: uniform in [0, 1), the same for the same seed and id."""
    digest = hashlib.sha256(f"{seed}\0{id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def random_share(policy: SamplingPolicy, budget: Budget, size: int) -> float:
    """The probability of the random sample, as its budget runs out; 0 if `size` does not fit."""
    segments = policy.daily_segments * policy.random_budget
    octets = policy.daily_bytes * policy.random_budget
    fits = budget.random_segments + 1 <= segments and budget.random_bytes + size <= octets
    if not fits or octets <= 0:
        return 0.0
    left = min(1 - budget.random_segments / segments, 1 - budget.random_bytes / octets)
    share = policy.random_share * min(1.0, 2 * left)
    return share if share >= LEAST_PROBABILITY else 0.0


# The rules.


def _gate(name: str, ok: bool, detail: str) -> Rule:
    return Rule(name, "passes" if ok else "vetoes", detail)


def _selector(name: str, selects: bool, detail: str) -> Rule:
    return Rule(name, "selects" if selects else "passes", detail)


def _consent(consent: Consent | None, candidate: Candidate) -> Rule:
    if consent is None:
        return _gate("consent", False, "there is none")
    if not consent.granted:
        return _gate("consent", False, f"{consent.id} was withdrawn")
    if candidate.captured_ms < consent.from_ms:
        return _gate("consent", False, f"recorded before {consent.id} began")
    if consent.until_ms is not None and candidate.captured_ms >= consent.until_ms:
        return _gate("consent", False, f"{consent.id} has ended")
    return _gate("consent", True, consent.id)


def _speech(policy: SamplingPolicy, candidate: Candidate) -> Rule:
    ok = policy.min_speech_s <= candidate.speech_s <= policy.max_speech_s
    limits = f"{policy.min_speech_s:g} to {policy.max_speech_s:g} s"
    return _gate("speech", ok, f"{candidate.speech_s:.2f} s of {limits}")


def _quiet(policy: SamplingPolicy, local: datetime) -> Rule:
    if not policy.quiet:
        return _gate("quiet hours", True, "there are none")
    for quiet in policy.quiet:
        if quiet.covers(local):
            return _gate("quiet hours", False, f"{local:%H:%M} is within {quiet}")
    return _gate("quiet hours", True, f"{local:%H:%M} is outside")


def _redaction(redactor: Redactor | None, candidate: Candidate) -> Rule:
    why = redactor(candidate) if redactor is not None else None
    return _gate("redaction", why is None, why or "nothing to withhold")


def _affords(policy: SamplingPolicy, candidate: Candidate, budget: Budget) -> Rule:
    segments = policy.daily_segments * (1 - policy.random_budget)
    octets = policy.daily_bytes * (1 - policy.random_budget)
    ok = budget.segments + 1 <= segments and budget.bytes + candidate.size <= octets
    spent = f"{budget.segments} of {segments:g} segments, {budget.bytes} of {octets:.0f} bytes"
    return _gate("budget", ok, f"{spent} spent, {candidate.size} more asked for")


def _unsure(policy: SamplingPolicy, candidate: Candidate) -> Rule:
    unsure = candidate.confidence < policy.confidence_below
    relation = "below" if unsure else "not below"
    detail = f"confidence {candidate.confidence:.2f} is {relation} {policy.confidence_below:.2f}"
    return _selector("unsure", unsure, detail)


def _deletion(policy: SamplingPolicy, candidate: Candidate) -> Rule:
    suspect = candidate.deletion_score > policy.deletion_above
    relation = "above" if suspect else "not above"
    detail = f"score {candidate.deletion_score:.2f} is {relation} {policy.deletion_above:.2f}"
    return _selector("deletion", suspect, detail)


def _random(policy: SamplingPolicy, candidate: Candidate, share: float) -> Rule:
    dice = draw(policy.seed, candidate.id)
    relation = "below" if dice < share else "not below"
    return _selector("random", dice < share, f"dice {dice:.4f} {relation} {share:.4f}")


def _for(purposes: Collection[str], purpose: str, *rules: Rule) -> tuple[Rule, ...]:
    """The same rules, if the consent is for this purpose; otherwise they select nothing."""
    if purpose in purposes:
        return rules
    return tuple(_selector(rule.name, False, f"no consent to {purpose}") for rule in rules)


def _value(policy: SamplingPolicy, candidate: Candidate, *, drawn: bool) -> float:
    """What the outbox parts with last: the sample, since a hole in it biases; then the worst."""
    if drawn:
        return 1.0
    unsure = 1 - candidate.confidence / policy.confidence_below if policy.confidence_below else 0.0
    return 0.9 * min(1.0, max(0.0, unsure, candidate.deletion_score))


def _of_day(budget: Budget, day: str) -> Budget:
    """What is spent of this day's budget.

    A clock that goes back begins no new day: what was spent stays spent, but counts for the earlier
    day, so that a clock that was wrong by years holds nothing up for years.
    """
    if day > budget.day:
        return Budget(day=day)
    return budget if day == budget.day else replace(budget, day=day)


def _spent(budget: Budget, size: int, *, learning: bool, drawn: bool) -> Budget:
    """What is in the random sample is paid for by it alone."""
    if drawn:
        return replace(
            budget,
            random_segments=budget.random_segments + 1,
            random_bytes=budget.random_bytes + size,
        )
    if learning:
        return replace(budget, segments=budget.segments + 1, bytes=budget.bytes + size)
    return budget
