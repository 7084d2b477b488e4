"""Records to documents: docs/results.md, and the table of targets in the README.

    python benchmarks/report.py        # after benchmarks/run.py, which calls it

Every number comes from benchmarks/results/*.json, every definition from the docstring of the
benchmark that made it. Only what is between the markers is replaced. A target without a record is
shown as not measured, never left out.
"""

from __future__ import annotations

import importlib
import inspect
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import api, scenarios
from benchmarks.measure import RESULTS, ROOT, Table, markdown, say

ORDER = ("parity", "sherpa", "gemm", "features", "overhead", "batch", "memory", "accuracy",
         "robustness", "latency", "confidence", "int8", "ingest", "soak", "fleet_sim", "api", "ota",
         "gate", "monitor", "labels", "selection", "pipeline", "rollout", "delta",
         "agent", "scale", "scenarios")  # fmt: skip
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
SEEN, HELD_OUT, REAL = "seen-voices", "held-out-voices", "reader-5652"  # names of test sets

Results = Mapping[str, Any]
Finding = tuple[str, bool | None]  # what was measured; whether it is good enough, where that is set


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One line of the table of targets."""

    what: str
    aim: str
    benchmark: str
    find: Callable[[Results], Finding]  # KeyError: not measured


def _parity(results: Results) -> Finding:
    worst = max(found["largest_difference"] for found in results.values())
    same = sum(found["pieces_with_equal_tokens"] for found in results.values())
    pieces = sum(found["pieces"] for found in results.values())
    return f"{worst:.1e}; {same} of {pieces}", worst <= 1e-4 and same == pieces


def _sherpa_tokens(results: Results) -> Finding:
    chunks = [found for name, found in results.items() if name.isdigit()]
    same = min(found["utterances_with_equal_tokens"] for found in chunks)
    count = min(found["utterances"] for found in chunks)
    return f"{same} of {count}", same == count >= 100


def _sherpa_ratio(chunk_ms: int) -> Callable[[Results], Finding]:
    def find(results: Results) -> Finding:
        ratio = results[str(chunk_ms)]["ratio"]
        return f"{ratio:.2f}", ratio <= 1

    return find


def _gemm(results: Results) -> Finding:
    ratios = {chunk_ms: results[str(chunk_ms)]["ratio"] for chunk_ms in (80, 320)}
    text = ", ".join(f"{ratio:.2f} at {chunk_ms} ms" for chunk_ms, ratio in ratios.items())
    return text, max(ratios.values()) <= 2


def _features(results: Results) -> Finding:
    cells = [f"{results[ms]['ratio']:.2f} at {ms} ms" for ms in ("320", "80")]
    return ", ".join(cells), None


def _overhead(results: Results) -> Finding:
    share = results["320"]["rest_share"]
    return f"{share:.1%}", share <= 0.05


def _batch(results: Results) -> Finding:
    found = results["8"]
    same = found["streams_with_equal_texts"]
    return f"{found['ratio']:.2f}, {same} of 8 texts equal", found["ratio"] <= 0.6 and same == 8


def _growth(results: Results) -> Finding:
    growth = results["stream"]["growth_mb"]
    return f"{growth:+.2f} MB", growth < 1 and results["minutes"] >= 60


def _peak(results: Results) -> Finding:
    peak = results["stream"]["peak_rss_mb"]
    return f"{peak:.0f} MB", peak < 150


def _cold_start(results: Results) -> Finding:
    cpu_s = results["cold_start"]["cpu_s"]
    return f"{cpu_s:.2f} s", cpu_s < 1


def _wer(name: str, most: float) -> Callable[[Results], Finding]:
    def find(results: Results) -> Finding:
        wer = results[name]["systems"]["320 ms, greedy"]["wer"]
        return f"{wer:.1%}", wer <= most

    return find


def _real_greedy_and_beam(results: Results) -> Finding:
    systems = results[REAL]["systems"]
    greedy = systems["320 ms, greedy"]["wer"]
    searched = [found["wer"] for name, found in systems.items() if "320 ms, beam" in name]
    beam = f"{searched[0]:.1%}" if searched else "not measured"
    return f"{greedy:.1%} / {beam}", greedy <= 0.45 and bool(searched) and searched[0] <= 0.35


def _shortest_chunk(results: Results) -> Finding:
    systems = results[REAL]["systems"]
    ratio = systems["80 ms, greedy"]["wer"] / systems["offline, greedy"]["wer"]
    return f"{ratio:.2f}", ratio <= 1.3


def _babble(results: Results) -> Finding:
    found = {n: s["babble 10 dB"] / s["as recorded"] for n, s in results["sets"].items()}
    text = ", ".join(f"{ratio:.2f} {name}" for name, ratio in found.items())
    return text, max(found.values()) <= 2


def _nothing(results: Results) -> Finding:
    rate = results["nothing"]["words_per_minute"]
    return f"{rate:.2f}", rate <= 0.5


def _real_speech(results: Results) -> Finding:
    systems = results[REAL]["systems"]
    names = [f"{chunk}, greedy" for chunk in ("80 ms", "160 ms", "320 ms", "640 ms", "offline")]
    *ours, theirs = (
        f"{systems[name]['wer']:.1%}" if name in systems else "not measured"
        for name in (*names, "pocketsphinx")
    )
    return f"{' / '.join(ours)}; {theirs}", None


def _latency(field: str) -> Callable[[Results], Finding]:
    def find(results: Results) -> Finding:
        cells = []
        for chunk_ms, found in results.items():
            values = " / ".join(f"{1e3 * found[field][rank]:.0f}" for rank in ("p50", "p90", "p99"))
            cells.append(f"{chunk_ms}: {values}")
        return "; ".join(cells), None

    return find


def _confidence(name: str, *, beam: bool) -> Callable[[Results], Finding]:
    def find(results: Results) -> Finding:
        found = results[name]["beam"] if beam else results[name]
        met = found["auroc"] >= 0.85 and found["nce"] >= 0.25 and found["ece"] <= 0.05
        return f"{found['auroc']:.3f} / {found['nce']:.3f} / {found['ece']:.3f}", met

    return find


def _int8_speed(results: Results) -> Finding:
    ratios = {chunk_ms: results["chunks"][str(chunk_ms)]["graph_ratio"] for chunk_ms in (320, 80)}
    text = ", ".join(f"{ratio:.2f} at {chunk_ms} ms" for chunk_ms, ratio in ratios.items())
    return text, ratios[320] <= 0.4 and ratios[80] <= 0.5


def _int8_sherpa(results: Results) -> Finding:
    ratios = {
        chunk_ms: results["chunks"][str(chunk_ms)]["ratio_to_sherpa"] for chunk_ms in (320, 80)
    }
    text = ", ".join(f"{ratio:.2f} at {chunk_ms} ms" for chunk_ms, ratio in ratios.items())
    return text, max(ratios.values()) <= 0.9


def _int8_wer(results: Results) -> Finding:
    cells, met = [], True
    for name, found in results["sets"].items():
        difference, (low, high) = found["difference"], found["interval"]
        cells.append(f"{100 * difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}) {name}")
        met &= difference <= 0.003 and difference <= 0.01 * found["wer"]["float"] and low <= 0
    return "; ".join(cells), met


def _int8_ece(results: Results) -> Finding:
    found = {name: s["ece"]["int8"] - s["ece"]["float"] for name, s in results["sets"].items()}
    text = ", ".join(f"{difference:+.3f} {name}" for name, difference in found.items())
    return text, max(found.values()) <= 0.01


def _int8_drift(results: Results) -> Finding:
    parts = results["agreement"]["edits_per_token"]
    return " ".join(f"{100 * part:.2f}" for part in parts), None


def _int8_size(results: Results) -> Finding:
    ratio = results["size_ratio_to_float32_weights"]
    return f"{ratio:.3f}", ratio <= 0.3


def _fleet(results: Results) -> Finding:
    latency, least, lost = results["latency_s"], results["connected_least"], results["lost"]
    doubled, rate = results["doubled"], results["made_per_s"]
    return (
        f"{least:,} connected, {rate:.0f} segments a second, {lost} lost, {doubled} doubled; "
        f"{latency['p50'] * 1000:.0f} / {latency['p99'] * 1000:.0f} ms",
        least >= 10_000 and not lost and not doubled,
    )


def _ingest(results: Results) -> Finding:
    found = {name: results[key] for key, name in _DATABASES.items()}
    text = ", ".join(
        f"{name} {each['of_bare']:.0%} ({each['cpu_us']:.0f} µs of CPU)"
        for name, each in found.items()
    )
    text += f"; bare {results['bare']['cpu_us']:.0f} µs"
    return text, min(each["of_bare"] for each in found.values()) >= 0.7


_DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def _api(results: Results) -> Finding:
    worst, p99 = api.slowest(results)
    growth = results["memory"]["growth_mb"]
    text = (
        f"{results['lists_and_details_ms']['p99']:.0f} ms; slowest {p99:.0f} ms ({worst}); "
        f"{growth:+.1f} MB in {results['memory']['requests']:,} requests"
    )
    return text, p99 < 200 and growth < 10 and results["memory"]["requests"] >= 20_000


def _delta(results: Results) -> Finding:
    first = [row for row in results["rows"] if row["pair"] == results["rows"][0]["pair"]]
    shares = {row["file"]: row["ours"] / row["bytes"] for row in first}
    text = ", ".join(f"{share:.1%} {name}" for name, share in sorted(shares.items()))
    return text, max(shares.values()) <= results["target"]


def _false_promotions(results: Results) -> Finding:
    rates = results["worst_superiority"], results["worst_non_inferiority"]
    again = results["worst"]["superiority"], results["worst"]["non_inferiority"]
    text = f"{rates[0]:.2%} / {rates[1]:.2%}, other sets of these kinds "
    text += f"{again[0]['again']:.2%} / {again[1]['again']:.2%}; "
    text += f"plain bootstrap {results['worst_percentile']:.1%}"
    return text, max(rates) <= 0.07


def _alarms(results: Results) -> Finding:
    ours = {name: f["e-detectors, e-BH"] for name, f in results.items() if name != "seeds"}
    quiet = [found for name, found in ours.items() if name.endswith(": none")]
    drifts = [
        found for name, found in ours.items() if name.endswith(("slice -0.05", "fleet -0.05"))
    ]
    false, soon = max(f["alarms"] for f in quiet), min(f["within_3"] for f in drifts)
    return f"{false:.2f} / {soon:.0%} ({results['seeds']} runs each)", false <= 0.1 and soon == 1


def _halts(results: Results) -> Finding:
    kinds = results["kinds"]
    bad = [run for name, runs in kinds.items() if name != "good" for run in runs]
    halted, most = sum(bool(run["halt"]) for run in bad), max(run["touched"] for run in bad)
    good = [run["state"] == "complete" for run in kinds["good"]]
    text = f"{halted} of {len(bad)} halted, {most:.1%} touched at most; "
    text += f"{sum(good)} of {len(good)} good ones complete"
    return text, halted == len(bad) and most < 0.05 and all(good)


def _pipelines(results: Results) -> Finding:
    cells, met = [], True
    for engine, found in results.items():
        lost, twice = found["segments"]["lost"], found["segments"]["twice"]
        cells.append(
            f"{engine}: {found['done']} of {found['runs']} finished, {found['stuck']} stuck, "
            f"{found['published_twice']} published twice, {lost} segments lost, {twice} twice, "
            f"{sum(found['killed'].values())} kills"
        )
        met = met and found["done"] == found["published_once"] == found["signed"] >= 30
        met = met and not (found["stuck"] or found["published_twice"] or lost or twice)
    return "; ".join(cells), met


def _soak(results: Results) -> Finding:
    kills = sum(results["kills"].values())
    text = f"{results['rows']:,} segments, {kills} kills: {results['lost']} lost, "
    text += f"{results['twice']} twice"
    lost = results["lost"] + results["twice"] + results["unknown"]
    return text, results["rows"] >= 10_000 and not lost


def _kept_labels(results: Results) -> Finding:
    found = results["sets"][REAL]
    whole, cut = found["kept_by_default_settings"], found["stretches"]["4"]
    text = f"{whole['ratio']:.2f} ({whole['kept']:.0%} of the words)"
    return f"{text}; stretches {cut['ratio']:.2f} ({cut['kept']:.0%})", whole["ratio"] <= 0.6


def _selection(results: Results) -> Finding:
    lifts = sorted(found["lift"] for found in results.values())
    middle = statistics.median(lifts)
    return f"{lifts[0]:.1f} to {lifts[-1]:.1f}, median {middle:.1f}", lifts[0] >= 4


def _agent(results: Results) -> Finding:
    more = results["listening"]["per_audio_s"] - 1
    return f"{more:+.1%}; {results['listening']['start_cpu_s']:+.2f} s once", more <= 0.05


def _shards(results: Results) -> Finding:
    found = results["transcription"]
    return f"{found['two_to_one']:.2f} / {found['ray_to_local']:.2f}", None


def _trained(results: Results) -> Finding:
    found = results["training"]
    cells = [f"{found[name]['ray_to_local']:.2f}" for name in ("one_process", "two_processes")]
    return " / ".join(cells), None


def _same_results(results: Results) -> Finding:
    trained = [results["training"][name] for name in ("one_process", "two_processes")]
    labels = results["transcription"]["files_equal"]
    losses = all(found["losses_equal"] for found in trained)
    weights = all(found["weights_equal"] for found in trained)
    cells = {"labels": labels, "losses": losses, "weights": weights}
    text = ", ".join(f"{name} {'equal' if same else 'differ'}" for name, same in cells.items())
    return text, labels and losses and weights


def _drifted(results: Results) -> Finding:
    cells, met = [], True
    for one in results["scenarios"]:
        limit = -0.15 if one["scenario"].startswith("readers") else -0.3
        if "wer" not in one:
            cells.append(f"{one['scenario']}: no alarm")
            met = False
            continue
        change = scenarios.change(one["wer"]["held-out"])
        cells.append(f"{one['scenario']}: {change:+.1%}")
        met = met and one["over"] == "completed" and change <= limit
    return ", ".join(cells), met


def _known(results: Results) -> Finding:
    changes = {
        one["scenario"]: scenarios.change(one["wer"]["known"])
        for one in results["scenarios"]
        if "wer" in one
    }
    text = ", ".join(f"{name}: {change:+.1%}" for name, change in changes.items())
    return text, max(changes.values()) <= 0.02


def _stages(results: Results) -> Finding:
    cells = []
    for one in results["scenarios"]:
        alarm, done = one["stages_s"]["alarm"], one["stages_s"]["fleet updated"]
        if alarm is not None and done is not None:
            cells.append(f"{one['scenario']}: {alarm / 60:.1f} / {(done - alarm) / 60:.1f}")
    return ", ".join(cells), None


TARGETS = (
    Target(
        what="chunked against offline: largest difference of a log-probability; equal tokens",
        aim="≤ 1e-4; all",
        benchmark="parity",
        find=_parity,
    ),
    Target(
        what="utterances with the tokens of stock sherpa-onnx",
        aim="all of ≥ 100",
        benchmark="sherpa",
        find=_sherpa_tokens,
    ),
    *(
        Target(
            what=f"CPU time at {chunk_ms} ms, ours / sherpa-onnx (C++), same file, one thread",
            aim="≤ 1.0",
            benchmark="sherpa",
            find=_sherpa_ratio(chunk_ms),
        )
        for chunk_ms in (320, 80)
    ),
    Target(what="graph / the time of its multiply-adds", aim="≤ 2", benchmark="gemm", find=_gemm),
    Target(
        what="features, our numpy / kaldi-native-fbank, CPU time",
        aim="",
        benchmark="features",
        find=_features,
    ),
    Target(
        what="our CPU time outside graph and features at 320 ms",
        aim="≤ 5 %",
        benchmark="overhead",
        find=_overhead,
    ),
    Target(
        what="8 streams batched / one by one, CPU time",
        aim="≤ 0.6",
        benchmark="batch",
        find=_batch,
    ),
    Target(
        what="memory growth over one hour of audio",
        aim="< 1 MB",
        benchmark="memory",
        find=_growth,
    ),
    Target(what="peak resident memory", aim="< 150 MB", benchmark="memory", find=_peak),
    Target(
        what="cold start to the final text of a 3 s clip, CPU time",
        aim="< 1 s",
        benchmark="memory",
        find=_cold_start,
    ),
    Target(
        what="WER at 320 ms, greedy: unseen sentences, voices of the training",
        aim="≤ 10 %",
        benchmark="accuracy",
        find=_wer(SEEN, 0.10),
    ),
    Target(
        what="WER at 320 ms, greedy: unseen sentences, voices held out of the training",
        aim="≤ 10 %",
        benchmark="accuracy",
        find=_wer(HELD_OUT, 0.10),
    ),
    Target(
        what="WER on real speech at 320 ms, greedy / beam search with the language model",
        aim="≤ 45 % / ≤ 35 %",
        benchmark="accuracy",
        find=_real_greedy_and_beam,
    ),
    Target(
        what="WER on real speech, 80 ms / offline",
        aim="≤ 1.3",
        benchmark="accuracy",
        find=_shortest_chunk,
    ),
    Target(
        what="WER with babble at 10 dB / as recorded",
        aim="≤ 2",
        benchmark="robustness",
        find=_babble,
    ),
    Target(
        what="words per minute of noise and silence",
        aim="≤ 0.5",
        benchmark="robustness",
        find=_nothing,
    ),
    Target(
        what="WER on real speech (LibriSpeech reader 5652) at 80 / 160 / 320 / 640 ms / offline; "
        "pocketsphinx",
        aim="",
        benchmark="accuracy",
        find=_real_speech,
    ),
    Target(
        what="word emission latency per chunk size, p50 / p90 / p99, ms",
        aim="",
        benchmark="latency",
        find=_latency("emission_s"),
    ),
    Target(
        what="end of speech to final by pause, per chunk size, p50 / p90 / p99, ms",
        aim="",
        benchmark="latency",
        find=_latency("final_by_pause_s"),
    ),
    Target(
        what="INT8 / float, CPU time of the graph",
        aim="≤ 0.4 at 320 ms, ≤ 0.5 at 80 ms",
        benchmark="int8",
        find=_int8_speed,
    ),
    Target(
        what="INT8 / sherpa-onnx with its usual dynamic INT8, CPU time with features and decoding",
        aim="≤ 0.9",
        benchmark="int8",
        find=_int8_sherpa,
    ),
    Target(
        what="WER of INT8 less that of float at 320 ms, points (95 % interval)",
        aim="≤ 0.3, ≤ 1 % of float's, not significant",
        benchmark="int8",
        find=_int8_wer,
    ),
    Target(what="ECE of INT8 less that of float", aim="≤ 0.01", benchmark="int8", find=_int8_ece),
    Target(
        what="INT8 file / the model in float32", aim="≤ 0.30", benchmark="int8", find=_int8_size
    ),
    Target(
        what="INT8 against float, edits per 100 tokens in every 10 minutes of an hour's stream",
        aim="",
        benchmark="int8",
        find=_int8_drift,
    ),
    *(
        Target(
            what=f"word confidence at 320 ms, {name}, {'beam' if beam else 'greedy'}: "
            "AUROC / NCE / ECE",
            aim="≥ 0.85 / ≥ 0.25 / ≤ 0.05",
            benchmark="confidence",
            find=_confidence(name, beam=beam),
        )
        for name in (REAL, HELD_OUT)
        for beam in (False, True)
    ),
    Target(
        what="ingest, segments of 20 kB, durable before the receipt / bare paho subscriber",
        aim="≥ 70 %: SQLite, PostgreSQL",
        benchmark="ingest",
        find=_ingest,
    ),
    Target(
        what="segments while broker, ingest and device are killed at random",
        aim="≥ 10,000; 0 lost, 0 twice",
        benchmark="soak",
        find=_soak,
    ),
    Target(
        what="simulated fleet, a segment of 20 kB a minute each; making to receipt, p50 / p99",
        aim="10,000 connected on 2 cores, 0 lost, 0 doubled",
        benchmark="fleet_sim",
        find=_fleet,
    ),
    Target(
        what="false promotions at nominal 5 %, the worst of 24 kinds of sets: superiority / "
        "non-inferiority",
        aim="≤ 7 %",
        benchmark="gate",
        find=_false_promotions,
    ),
    Target(
        what="false alarms in 30 days of 500 devices / found within 3 days: confidences of a slice "
        "or the fleet down by 0.05",
        aim="≤ 0.1 / 100 %",
        benchmark="monitor",
        find=_alarms,
    ),
    Target(
        what="WER of the labels that are kept / of all, LibriSpeech reader 5652",
        aim="≤ 0.6",
        benchmark="labels",
        find=_kept_labels,
    ),
    Target(
        what="precision of a domain's selection / of random, each of six domains",
        aim="≥ 4",
        benchmark="selection",
        find=_selection,
    ),
    Target(
        what="pipelines while controller, trainer, steps, ingest and broker are killed at random",
        aim="30 finished, 0 stuck, 0 published twice; 0 segments lost, 0 twice",
        benchmark="pipeline",
        find=_pipelines,
    ),
    Target(
        what="bad releases to 100,000 simulated devices: share touched before the halt",
        aim="< 5 %, all halted; good ones complete",
        benchmark="rollout",
        find=_halts,
    ),
    Target(
        what="API, 10,000 devices and 1 M segments in PostgreSQL: p99 of list and detail pages, "
        "CPU; memory",
        aim="< 200 ms; flat over 20,000 requests",
        benchmark="api",
        find=_api,
    ),
    Target(
        what="delta of a fine-tuned model from its parent / the whole file",
        aim="≤ 40 %",
        benchmark="delta",
        find=_delta,
    ),
    Target(
        what="CPU time of an agent above that of `transcribe`, per second of sound; its start",
        aim="≤ 5 %",
        benchmark="agent",
        find=_agent,
    ),
    Target(
        what="transcription, utterances a second: 2 workers / 1; Ray on this machine / 2 workers",
        aim="",
        benchmark="scale",
        find=_shards,
    ),
    Target(
        what="training as a Ray Job / here, wall time with the asking: 1 process / torchrun with 2",
        aim="",
        benchmark="scale",
        find=_trained,
    ),
    Target(
        what="labels by 1 worker, 2 and Ray; losses and weights here and under Ray",
        aim="bit for bit",
        benchmark="scale",
        find=_same_results,
    ),
    Target(
        what="`make loop`: WER of the drifted slice, on utterances never trained on, relative",
        aim="≤ -30 %, real readers ≤ -15 %",
        benchmark="scenarios",
        find=_drifted,
    ),
    Target(
        what="`make loop`: WER of what the model knew before, relative",
        aim="≤ +2 %",
        benchmark="scenarios",
        find=_known,
    ),
    Target(
        what="`make loop`: minutes from the drift to the alarm / from there to the fleet updated",
        aim="",
        benchmark="scenarios",
        find=_stages,
    ),
)


def targets_table(records: Mapping[str, Mapping[str, Any]]) -> Table:
    """What was asked, what was measured, and whether that is enough."""
    rows = [["what", "target", "measured", "met"]]
    for target in TARGETS:
        try:
            measured, met = target.find(records[target.benchmark]["results"])
        except KeyError:
            measured, met = "not measured", None
        rows.append(
            [target.what, target.aim, measured, {True: "yes", False: "**no**", None: ""}[met]]
        )
    return rows


def section(name: str, record: Mapping[str, Any]) -> str:
    """One benchmark: what its numbers mean, the numbers, and where they come from."""
    module = importlib.import_module(f"benchmarks.{name}")
    title, _, meaning = inspect.cleandoc(module.__doc__ or "").partition("\n")
    return "\n".join(
        [
            f"## {title.rstrip('.')}",
            "",
            meaning.strip(),
            "",
            markdown(module.table(record["results"])),
            f"`{record['command']}`  ",
            provenance(record),
            "",
        ]
    )


def provenance(record: Mapping[str, Any]) -> str:
    machine, bundle = record["machine"], record["bundle"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"{record['date']}, commit {record['commit']}; {bundle['name']} {bundle['version']} "
        f"({bundle['encoder_sha256'][:12]}); {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}, "
        f"{machine['busy_cores']} cores busy with other work; {versions}."
    )


def replace_between(text: str, replacement: str) -> str:
    """Raises ValueError where the markers are not there once, in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"expected {BEGIN} and {END} once")
    return f"{before}{BEGIN}\n{replacement.strip()}\n{END}{after}"


def load_records(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        name: json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in ORDER
        if (folder / f"{name}.json").is_file()
    }


def documents(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What belongs between the markers, by file."""
    table = markdown(targets_table(records))
    origins = {
        f"{record['machine']['cpu']}, {record['machine']['cores']} cores, {record['date']}, "
        f"commit {record['commit']}"
        for record in records.values()
    }
    return {
        "README.md": f"{table}\nMeasured on {'; '.join(sorted(origins)) or 'nothing yet'}. What "
        "each number means, how it was measured and more of them: [results](docs/results.md).",
        "docs/results.md": "\n".join(
            ["## Targets", "", table, *(section(name, record) for name, record in records.items())]
        ),
    }


def main() -> int:
    for name, content in documents(load_records(RESULTS)).items():
        path = ROOT / name
        path.write_text(replace_between(path.read_text("utf-8"), content), "utf-8")
        say(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
