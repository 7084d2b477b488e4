"""Counting: nothing twice, nothing over two models, everything in the totals."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.agent.gauges import read_gauges
from edge_runtime.agent.sampling import Budget, Candidate, SamplingPolicy, decide
from edge_runtime.agent.telemetry import UNIT, Meter, Tally
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.messages import Consent, Telemetry
from edge_runtime.contract.records import Model
from edge_runtime.events import Final, Word


def model(version: str) -> Model:
    return Model(
        name="m", version=version, release_counter=1, manifest_sha256=bytes(32), precision="p"
    )


def flush(meter: Meter, now_ms: int) -> list[Telemetry]:
    return meter.flush(now_ms=now_ms, queued=3, queued_bytes=4, dead=5, gauges={"memory_bytes": 6})


def final(confidence: float) -> Final:
    return Final("a b", 1.0, 2.5, confidence, (Word("a", 1, 2, 0.25), Word("b", 2, 2.5, 0.75)), 0.1)


@given(st.lists(st.floats(-1, 2), max_size=50))
def test_every_value_is_in_one_bin_of_a_histogram(values: list[float]) -> None:
    tally = Tally(UNIT)
    for value in values:
        tally.add(value)
    histogram = tally.histogram()
    assert sum(histogram.counts) == len(values)
    assert histogram.total == pytest.approx(sum(values))
    for index, bound in enumerate(UNIT):  # (..b0], (b0..b1], ...
        assert sum(histogram.counts[: index + 1]) == sum(value <= bound for value in values)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("model"), st.integers(0, 3)),
            st.tuples(st.just("utterance"), st.integers(0, 2)),
            st.just(("flush", 0)),
        ),
        max_size=40,
    )
)
def test_reports_cover_one_model_each_and_together_everything(
    steps: list[tuple[str, int]],
) -> None:
    meter, reports, said = Meter(9), [], [0, 0, 0]
    for now, (what, number) in enumerate(steps):
        if what == "model":
            meter.model(model(str(number)) if number < 3 else None, now_ms=now)
        elif what == "utterance":
            meter.utterance(model(str(number)), final(0.5), now_ms=now)
            said[number] += 1
        else:
            reports += flush(meter, now)
    assert meter.totals().utterances == sum(said)
    reports += flush(meter, len(steps))
    for number in range(3):
        mine = [each for each in reports if each.model == model(str(number))]
        assert sum(each.utterances for each in mine) == said[number]
    assert [each.sequence for each in reports] == list(range(len(reports)))
    assert all(decode(encode(each)) == each for each in reports)
    assert meter.totals().utterances == sum(said)


def test_a_report_says_what_happened() -> None:
    meter = Meter(9)
    meter.model(model("1"), now_ms=10)
    meter.audio(4.0, 1.0)
    meter.first_word(0.7)
    meter.final(1.2)
    meter.crash()
    meter.utterance(model("1"), final(0.3), now_ms=11)
    policy, consent = SamplingPolicy(), Consent(id="c", version=1, granted=True, from_ms=0)
    for given_consent in (consent, None):
        candidate = Candidate(
            id="0" * 32, captured_ms=1, speech_s=1.5, confidence=0.3, deletion_score=0.1, size=9
        )
        decision = decide(policy, given_consent, candidate, Budget())
        meter.decided(model("1"), decision, now_ms=12)
    [report] = flush(meter, 20)
    assert (report.session, report.start_ms, report.end_ms) == (9, 10, 20)
    assert (report.utterances, report.speech_s, report.crashes) == (1, 1.5, 1)
    assert report.real_time_factor == 0.25
    assert report.selected == {"unsure": 1}
    assert report.vetoed == {"consent": 1}
    assert report.unsampled == 1
    assert (report.queued, report.queued_bytes, report.dead) == (3, 4, 5)
    assert sum(report.word_confidence.counts) == 2
    assert sum(report.first_word_s.counts) == sum(report.final_s.counts) == 1
    assert flush(meter, 30) == []


def test_gauges_are_what_the_system_has(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("CPU-thermal\n")
    (zone / "temp").write_text("48500\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/statm").write_text("100 10 1 1 0 1 0\n")

    def broken() -> dict[str, float]:
        raise OSError("gone")

    others = {"board": lambda: {"Power VDD/IN mW": 4100.0}, "broken": broken}
    found = read_gauges(tmp_path, others, tmp_path)
    assert found["temperature_cpu_c"] == 48.5
    assert found["memory_bytes"] % 10 == 0
    assert found["power_vdd_in_mw"] == 4100
    assert found["disk_free_bytes"] > 0
