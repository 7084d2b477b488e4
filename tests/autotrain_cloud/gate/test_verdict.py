"""The rules, on outcomes made up for them: which one fails, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrain_cloud.gate.evaluate import Evaluation, Outcome
from autotrain_cloud.gate.evidence import Evidence, Heard, Model
from autotrain_cloud.gate.hygiene import Finding
from autotrain_cloud.gate.report import markdown
from autotrain_cloud.gate.sets import EvalSet, Recording
from autotrain_cloud.gate.settings import Bounds, GateSettings
from autotrain_cloud.gate.speed import Cost, Pair
from autotrain_cloud.gate.verdict import Verdict, decide
from edge_runtime.errors import ConfigError
from edge_runtime.manifest import Utterance
from edge_runtime.settings import read_settings

WORDS = 20  # of an utterance
MODELS = [Model(name="m", version=v, release_counter=1, digest=v * 8) for v in ("1", "2")]
# Confidences are made up here, so most of their measures mean nothing.
SETTINGS = GateSettings(bounds=Bounds(ece=0.3, nce=9.0))


def eval_set(
    name: str, speakers: int = 30, each: int = 4, slices: Callable[[int], str] = lambda i: ""
) -> EvalSet:
    recordings = tuple(
        Recording(
            utterance=Utterance(audio_filepath=Path("x.wav"), duration=6.0, text="la " * WORDS),
            block=f"s{i % speakers}",
            slice=slices(i),
            audio_sha256=f"{i:064}",
        )
        for i in range(speakers * each)
    )
    return EvalSet(name=name, path=Path(name), recordings=recordings, digest=name)


def outcome(errors: int, *, sure: float = 0.0, seed: int = 0, text: str = "") -> Outcome:
    """`errors` wrong words; confidences are probabilities, unless `sure` lifts them."""
    rng = np.random.default_rng(seed)
    words = []
    for i in range(WORDS):
        right = i >= errors
        p = rng.uniform(0.75, 1.0) if right or rng.random() < 0.3 else rng.uniform(0.1, 0.6)
        words.append(("la", float(min(1.0, p + sure)), right))
    return Outcome(
        text=text or "la " * WORDS, hits=WORDS - errors, substitutions=errors, deletions=0,
        insertions=0, confidence=0.9, words=tuple(words), audio_s=6.0, cpu_s=0.06,
    )  # fmt: skip


def evaluation(one: EvalSet, errors: Callable[[int], int], **options: Any) -> Evaluation:
    outcomes = tuple(outcome(errors(i), seed=i, **options) for i in range(len(one.recordings)))
    return Evaluation(
        bundle="b", precision="int8-dynamic", chunk_ms=320, eval_set=one, outcomes=outcomes,
        peak_rss_mb=90.0, digest="r",
    )  # fmt: skip


def heard(
    one: EvalSet, before: Callable[[int], int], after: Callable[[int], int], **options: Any
) -> Heard:
    return Heard(champion=evaluation(one, before), challenger=evaluation(one, after, **options))


def usual(i: int) -> int:
    return 2 + i % 3


def better(i: int) -> int:
    return 1 + i % 3


def worse(i: int) -> int:
    return 3 + i % 3


def evidence(**changes: Any) -> Evidence:
    found = Evidence(
        champion=MODELS[0],
        challenger=MODELS[1],
        targets=(heard(eval_set("street"), usual, better),),
        guards=(heard(eval_set("home"), usual, usual),),
    )
    return replace(found, **changes)


def failed(verdict: Verdict) -> list[str]:
    return [rule.name for rule in verdict.rules if rule.passed is False]


def test_better_on_the_target_and_equal_on_the_guard_is_promoted() -> None:
    verdict = decide(evidence(), SETTINGS)
    assert verdict.promote and verdict.reasons == ()
    text = json.dumps(verdict.to_json(), allow_nan=False)
    assert len(verdict.digest) == 64 and decide(evidence(), SETTINGS).digest == verdict.digest
    assert json.loads(text)["rules"][1]["measured"]["relative"] == pytest.approx(-1 / 3)
    assert markdown(verdict).startswith("# Promoted: m 2 against 1\n")


def test_worse_on_one_slice_of_a_guard_names_the_slice() -> None:
    def only_night(i: int) -> int:
        return worse(i) if i % 2 else usual(i)

    one = eval_set("home", speakers=31, each=8, slices=lambda i: "night" if i % 2 else "day")
    verdict = decide(evidence(guards=(heard(one, usual, only_night),)), SETTINGS)
    assert failed(verdict) == ["guard home/night"]
    assert verdict.reasons[0].startswith("guard home/night: worse: WER 15.0")
    assert "| guard home/night | FAIL | worse" in markdown(verdict)


def test_a_guard_that_is_too_small_says_what_it_detects() -> None:
    def uneven(i: int) -> int:
        return usual(i) + (i % 7) % 3 - 1  # by speaker: some gain, some lose

    small = heard(eval_set("home", speakers=7, each=4), usual, uneven)
    verdict = decide(evidence(guards=(small,)), SETTINGS)
    assert failed(verdict) == ["guard home"]
    assert "not proven to be within +2.0%" in verdict.reasons[0]
    assert "with 7 speakers and 560 words this set detects" in verdict.reasons[0]
    few = heard(eval_set("home", speakers=4), usual, usual)
    verdict = decide(evidence(guards=(few,)), SETTINGS)
    assert verdict.reasons == ("guard home: too small: 4 speakers, at least 5 are needed",)


def test_holm_asks_more_of_the_clearest_guards() -> None:
    guards = tuple(heard(eval_set(name), usual, usual) for name in ("a", "b", "c"))
    verdict = decide(evidence(guards=guards), SETTINGS)
    levels = sorted(
        rule.measured["holm_level"] for rule in verdict.rules if rule.name.startswith("guard")
    )
    assert levels == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])


def test_words_made_up_where_nobody_speaks_are_counted_by_the_minute() -> None:
    silence = eval_set("noise", speakers=1, each=10)

    def said(count: int) -> Evaluation:
        quiet = [replace(outcome(0), words=()) for _ in range(10)]
        quiet[0] = replace(outcome(0), words=(("la", 0.9, False),) * count)
        return replace(evaluation(silence, usual), outcomes=tuple(quiet))

    for count, passes in ((1, True), (2, False)):
        noise = Heard(champion=said(1), challenger=said(count))
        verdict = decide(evidence(noise=noise), SETTINGS)
        assert failed(verdict) == ([] if passes else ["noise"])
    assert "1.00 → 2.00 a minute" in verdict.reasons[0]


def test_a_phrase_that_must_be_right_is() -> None:
    utterance = Utterance(audio_filepath=Path("x"), duration=1.0, text="please stop the line now",
                          extra={"phrase": "Stop the line"})  # fmt: skip
    one = EvalSet(
        name="phrases", path=Path("p"), digest="p",
        recordings=(Recording(utterance=utterance, block="", slice="", audio_sha256="0"),),
    )  # fmt: skip
    for text, passes in (("peas stop the line now", True), ("please stop the lines now", False)):
        found = replace(evaluation(one, usual), outcomes=(outcome(0, text=text),))
        verdict = decide(evidence(phrases=Heard(champion=found, challenger=found)), SETTINGS)
        assert failed(verdict) == ([] if passes else ["phrases"])
    assert "0 of 1 phrases" in verdict.reasons[0] and "'Stop the line'" in verdict.reasons[0]


def test_int8_that_loses_to_its_float_is_rejected() -> None:
    found = evidence()
    sets = [one.eval_set for one in (*found.targets, *found.guards)]

    def floats(*errors: Callable[[int], int]) -> tuple[Evaluation, ...]:
        return tuple(evaluation(one, error) for one, error in zip(sets, errors, strict=True))

    assert decide(replace(found, floats=floats(better, usual)), SETTINGS).promote
    verdict = decide(replace(found, floats=floats(better, better)), SETTINGS)
    assert failed(verdict) == ["int8"] and "more than 1.0%" in verdict.reasons[0]


@pytest.mark.parametrize("rule", ["speed", "memory", "size"])
def test_each_cost_has_its_own_bound(rule: str) -> None:
    same, much = (Pair(champion=1.0, challenger=r, ratio=r) for r in (1.0, 1.2))
    cost = Cost(
        cpu_per_audio_s=much if rule == "speed" else same,
        peak_rss_mb=much if rule == "memory" else same,
        model_bytes=much if rule == "size" else same,
        audio_s=60.0,
        runs=5,
    )
    verdict = decide(evidence(cost=cost), SETTINGS)
    assert failed(verdict) == [rule] and "1.20 times the champion's" in verdict.reasons[0]


def test_a_challenger_that_is_surer_than_it_is_right_is_rejected_for_that_only() -> None:
    targets = (heard(eval_set("street"), usual, better, sure=0.3),)
    guards = (heard(eval_set("home"), usual, usual, sure=0.3),)
    verdict = decide(evidence(targets=targets, guards=guards), SETTINGS)
    assert failed(verdict) == ["confidence"]
    assert "it is surer of its words than they are right" in verdict.reasons[0]


def test_a_set_that_cannot_be_trusted_rejects_and_a_warning_does_not() -> None:
    fatal = Finding(eval_set="home", problem="speakers that training has too: ann")
    mild = Finding(eval_set="home", problem="50 looks", fatal=False)
    verdict = decide(evidence(findings=(fatal, mild)), SETTINGS)
    assert verdict.reasons == ("set home: speakers that training has too: ann",)
    assert verdict.warnings == ("home: 50 looks",)


def test_a_gate_without_a_target_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="target"):
        decide(evidence(targets=()), SETTINGS)


def test_settings_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("[test]\nmargin = 0.1\n[hearing]\nchunk_ms = 160\n", "utf-8")
    settings = read_settings(GateSettings, path)
    assert (settings.test.margin, settings.hearing.chunk_ms) == (0.1, 160)
    path.write_text("[test]\nlevel = 5\n", "utf-8")
    with pytest.raises(ConfigError, match=r"gate.toml: test: level: 5.0 \(expected"):
        read_settings(GateSettings, path)
    path.write_text("[bounds]\nmemory = 2\n", "utf-8")
    with pytest.raises(ConfigError, match="did you mean 'memory_ratio'"):
        read_settings(GateSettings, path)
