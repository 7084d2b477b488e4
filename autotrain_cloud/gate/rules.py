"""The rules of the gate, one function each: evidence in, `Rule`s with numbers and reasons out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotrain_cloud.gate.calibration import MEASURES, Worsening, worsenings
from autotrain_cloud.gate.compare import Blocks, Comparison, compare, holm
from autotrain_cloud.gate.evaluate import Outcome
from autotrain_cloud.gate.evidence import Evidence, Heard, Rule
from autotrain_cloud.gate.hygiene import Finding, normalised
from autotrain_cloud.gate.power import Power, detectable
from autotrain_cloud.gate.settings import Bounds, GateSettings
from autotrain_cloud.gate.speed import Cost, Pair


def set_power(blocks: Blocks, settings: GateSettings, level: float | None = None) -> Power:
    """What a slice can detect, from the champion's errors on it."""
    return detectable(
        blocks.words,
        blocks.champion,
        level=level or settings.test.level,
        power=settings.test.power,
        assumptions=settings.assumptions,
    )


def hygiene(findings: Sequence[Finding]) -> list[Rule]:
    fatal = [finding for finding in findings if finding.fatal]
    if not fatal:
        return [Rule(name="sets", passed=True, reason="nothing known against them")]
    return [
        Rule(name=f"set {finding.eval_set}", passed=False, reason=finding.problem)
        for finding in fatal
    ]


def superiority(parts: Mapping[str, Blocks], settings: GateSettings) -> list[Rule]:
    test, rules = settings.test, []
    for name, blocks in parts.items():
        if small := _too_small(blocks, settings):
            rules.append(Rule(name=f"target {name}", passed=False, reason=small))
            continue
        found = compare(blocks, level=test.level, draws=test.draws)
        power = set_power(blocks, settings)
        if found.passed:
            reason = f"better: {_change(found)}, {_sure(found.high, found)}"
        elif (blocks.champion == blocks.challenger).all():
            reason = f"no better: both make the same errors ({_percent(found.champion)} WER)"
        elif found.difference >= 0:
            reason = f"no better: {_change(found)}"
        else:
            reason = (
                f"not proven better: {_change(found)}, {_sure(found.high, found)}; {_can(power)}"
            )
        rules.append(
            Rule(
                name=f"target {name}",
                passed=found.passed,
                reason=reason,
                measured={**found.to_json(), "power": power.to_json()},
                threshold=0.0,
            )
        )
    return rules


def non_inferiority(parts: Mapping[str, Blocks], settings: GateSettings) -> list[Rule]:
    test = settings.test
    small = {name: why for name, blocks in parts.items() if (why := _too_small(blocks, settings))}
    found = {
        name: compare(blocks, margin=test.margin, level=test.level, draws=test.draws)
        for name, blocks in parts.items()
        if name not in small
    }
    if test.holm:
        levels = holm({name: one.p for name, one in found.items()}, test.level)
    else:
        levels = dict.fromkeys(found, test.level)
    rules = []
    for name, blocks in parts.items():
        if name in small:
            rules.append(Rule(name=f"guard {name}", passed=False, reason=small[name]))
            continue
        one = found[name]
        power = set_power(blocks, settings)
        passed = one.p < levels[name]
        if passed:
            reason = f"not worse: {_change(one)}, {_sure(one.high, one)}"
        elif one.worse_p < test.level:
            reason = f"worse: {_change(one)}, {_sure(one.low, one)}"
        elif one.passed:
            reason = (
                f"not proven together with the other guards: {_change(one)}, p {one.p:.3f} is not "
                f"below {levels[name]:.3f}"
            )
        else:
            reason = (
                f"not proven to be within {test.margin:+.1%}: {_change(one)}, "
                f"{_sure(one.high, one)}; {_can(power)}"
            )
        rules.append(
            Rule(
                name=f"guard {name}",
                passed=passed,
                reason=reason,
                measured={**one.to_json(), "holm_level": levels[name], "power": power.to_json()},
                threshold=test.margin,
            )
        )
    return rules


def _too_small(blocks: Blocks, settings: GateSettings) -> str:
    """Why nothing can be decided on these; "" if it can."""
    least = settings.test.min_speakers
    if len(blocks.names) < least:
        return f"too small: {len(blocks.names)} speakers, at least {least} are needed"
    return "" if blocks.words.sum() else "has no words: a set without speech goes to the noise rule"


def noise(noise: Heard | None, bounds: Bounds) -> Rule:
    if noise is None:
        return Rule(name="noise", passed=None, reason="no recordings without speech were given")
    before, after = noise.champion.words_per_minute, noise.challenger.words_per_minute
    passed = after <= before + bounds.noise_words_per_minute
    return Rule(
        name="noise",
        passed=passed,
        reason=f"makes up {'no' if passed else 'too many'} more words where nobody speaks: "
        f"{before:.2f} → {after:.2f} a minute (at most {bounds.noise_words_per_minute:g} more)",
        measured={"champion": before, "challenger": after, "unit": "words per minute"},
        threshold=bounds.noise_words_per_minute,
    )


def phrases(phrases: Heard | None) -> Rule:
    if phrases is None:
        return Rule(name="phrases", passed=None, reason="no phrases that must be right were given")
    wanted = [
        str(r.utterance.extra.get("phrase") or r.utterance.text)
        for r in phrases.eval_set.recordings
    ]
    missed = [
        text
        for text, outcome in zip(wanted, phrases.challenger.outcomes, strict=True)
        if not _contains(outcome, text)
    ]
    known = sum(map(_contains, phrases.champion.outcomes, wanted))
    listed = ", ".join(repr(text) for text in dict.fromkeys(missed[:5]))
    return Rule(
        name="phrases",
        passed=not missed,
        reason=f"{len(wanted) - len(missed)} of {len(wanted)} phrases that must be right are "
        f"(champion: {known})" + (f"; missed: {listed}" if missed else ""),
        measured={"phrases": len(wanted), "champion": known, "missed": missed},
        threshold=float(len(wanted)),
    )


def _contains(outcome: Outcome, phrase: str) -> bool:
    return f" {normalised(phrase)} " in f" {normalised(outcome.text)} "


def int8(evidence: Evidence, settings: GateSettings) -> Rule:
    if not evidence.floats:
        reason = "the model that ships is not quantised, or was not compared with its float"
        return Rule(name="int8", passed=None, reason=reason)
    pairs = []
    spoken = (*evidence.targets, *evidence.guards)
    for heard, plain in zip(spoken, evidence.floats, strict=True):
        outcomes = zip(
            heard.eval_set.recordings, plain.outcomes, heard.challenger.outcomes, strict=True
        )
        pairs += [(r.block, before.counts, after.counts) for r, before, after in outcomes]
    blocks = Blocks.of(pairs)
    if len(blocks.names) < 2 or not blocks.words.sum():
        return Rule(name="int8", passed=False, reason="too few speakers to compare INT8 with float")
    most = settings.bounds.int8_loss
    found = compare(blocks, level=settings.test.level, draws=settings.test.draws)
    is_loss = found.relative > most if found.champion else found.difference > 0
    passed = not (is_loss and found.worse_p < settings.test.level)
    if passed and is_loss:
        reason = f"loses more than {most:.1%} to float, but that may be chance: {_change(found)}"
    else:
        within = "within" if passed else "more than"
        reason = f"INT8 loses {within} {most:.1%} relative to float: {_change(found)}"
    return Rule(name="int8", passed=passed, reason=reason, measured=found.to_json(), threshold=most)


def cost(cost: Cost | None, bounds: Bounds) -> list[Rule]:
    if cost is None:
        return [Rule(name="speed", passed=None, reason="time and memory were not measured")]

    def rule(name: str, pair: Pair, most: float, what: str, unit: float, text: str) -> Rule:
        return Rule(
            name=name,
            passed=pair.ratio <= most,
            reason=f"{what}: {pair.champion / unit:.3g} → {pair.challenger / unit:.3g} {text}, "
            f"{pair.ratio:.2f} times the champion's (at most {most:.2f})",
            measured={
                "champion": pair.champion,
                "challenger": pair.challenger,
                "ratio": pair.ratio,
                "runs": cost.runs,
            },
            threshold=most,
        )

    return [
        rule(
            "speed", cost.cpu_per_audio_s, bounds.cpu_ratio, "CPU time", 1e-3, "ms per audio second"
        ),
        rule("memory", cost.peak_rss_mb, bounds.memory_ratio, "peak memory", 1, "MB"),
        rule("size", cost.model_bytes, bounds.size_ratio, "the model", 1e6, "MB"),
    ]


_SAID = {
    "ece": "its confidences are further from the share of right words",
    "nce": "its confidences hardly say which words are right",
    "overconfidence": "it is surer of its words than they are right",
}


def confidence(spoken: Sequence[Heard], settings: GateSettings) -> Rule:
    blocks = [recording.block for heard in spoken for recording in heard.eval_set.recordings]
    allowed = {name: getattr(settings.bounds, name) for name in MEASURES}
    found = worsenings(
        blocks,
        [outcome for heard in spoken for outcome in heard.champion.outcomes],
        [outcome for heard in spoken for outcome in heard.challenger.outcomes],
        allowed,
        level=settings.test.level,
    )
    broken = [
        f"{_SAID[name]} ({name} {one.champion:+.3f} → {one.challenger:+.3f})"
        for name, one in found.items()
        if _is_worse(one, allowed[name])
    ]
    return Rule(
        name="confidence",
        passed=not broken,
        reason="; ".join(broken)
        or "no worse: "
        + ", ".join(
            f"{name} {one.champion:.3f} → {one.challenger:.3f}" for name, one in found.items()
        ),
        measured={
            name: {
                "champion": _number(one.champion),
                "challenger": _number(one.challenger),
                "worse_by": _number(one.value),
                "at_least": _number(one.low),
                "allowed": allowed[name],
            }
            for name, one in found.items()
        },
    )


def _is_worse(one: Worsening, allowed: float) -> bool:
    """By more than is allowed, and not by chance."""
    return one.value > allowed and one.low > 0


# --- words and numbers ---------------------------------------------------------------------------


def _change(found: Comparison) -> str:
    text = f"WER {_percent(found.champion)} → {_percent(found.challenger)}"
    return f"{text} ({found.relative:+.1%})" if found.champion else text


def _sure(bound: float, found: Comparison) -> str:
    """A bound in words, relative where that exists."""
    side = "at most" if bound == found.high else "at least"
    value = f"{bound / found.champion:+.1%}" if found.champion else f"{100 * bound:+.2f} points"
    return f"{side} {value} at {1 - found.level:.0%} confidence"


def _can(power: Power) -> str:
    if power.detectable == float("inf"):
        return "this set detects nothing: the champion makes no errors on it"
    return (
        f"with {power.blocks} speakers and {power.words} words this set detects "
        f"{power.detectable:.0%} or more"
    )


def _percent(rate: float) -> str:
    return f"{rate:.2%}"


def _number(value: float) -> float | None:
    return value if value == value else None
