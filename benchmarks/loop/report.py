"""What came of it: numbers as JSON, a page of Markdown, and two pictures."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import soundfile

from autotrain_cloud.pipeline.steps import newest
from autotrain_cloud.store import Store
from benchmarks.loop import fleet
from benchmarks.loop.story import Story
from benchmarks.loop.world import DEVICES, World
from edge_runtime.manifest import read_manifest

REPORTED = ("held-out", "known")  # sets that nobody trains on and no gate hears
_COLOURS = {"kitchen-1": "tab:red", "kitchen-2": "tab:orange", "hall-1": "tab:blue"}
_SMOOTH = 10  # reports before, that the thick curves are a mean of


def make(world: World, store: Store, story: Story, sent: int) -> dict[str, Any]:
    """JSON values. `sent`: bytes that devices fetched."""
    run = _run(world.out / "pipeline" / "runs")
    steps = {step["name"]: step for step in run["steps"]}
    done = {name: step for name, step in steps.items() if step["state"] == "done"}
    found: dict[str, Any] = {
        "scenario": world.speech.scenario.name,
        "what": world.speech.scenario.what,
        "over": story.over,
        "pace": asdict(world.pace),
        "stages_s": story.stages(),
        "steps": {
            name: {
                "seconds": round(step["finished"] - step["started"], 1),
                "cpu_seconds": round(step["cpu_seconds"], 1),
            }
            for name, step in steps.items()
            if step["finished"]
        },
        "alarms": [event.text for event in story.events if event.kind == "alarm"],
        "segments": sum(fleet.segment_counts(store).values()),
        "updates": [asdict(one) for one in fleet.ended_updates(store, story.begun)],
        "confidence": [asdict(one) for one in fleet.reports(store, story.begun)],
        "bytes_over_the_air": sent,
    }
    if "select" in done:
        found["data"] = _data(steps)
    if "interpolate" in done:
        found["interpolation"] = _mixed(steps[newest("interpolate", steps)])
    if "gate" in steps and (Path(steps["gate"]["folder"]) / "verdict.json").exists():
        verdict = json.loads((Path(steps["gate"]["folder"]) / "verdict.json").read_text())
        found["gate"] = {"promote": verdict["promote"], "reasons": verdict["reasons"]}
    if "calibrate" in done:
        after = Path(steps["calibrate"]["folder"]) / "bundle"
        found["wer"] = {
            name: {
                "before": word_error_rate(world.bundle, world.speech.manifest(name)),
                "after": word_error_rate(after, world.speech.manifest(name)),
            }
            for name in REPORTED
        }
    return found


def word_error_rate(bundle: Path, manifest: Path) -> float:
    """Greedy, at the bundle's own chunk size, in the precision that this processor runs."""
    from edge_runtime.events import Final
    from edge_runtime.metrics import ErrorCounts, word_errors
    from edge_runtime.recognizer import Recognizer

    recognizer = Recognizer.open(bundle)
    counts = ErrorCounts()
    for utterance in read_manifest(manifest):
        samples, _ = soundfile.read(utterance.audio_filepath, dtype="float32")
        stream = recognizer.stream()
        events = (*stream.push(samples), *stream.finish())
        text = " ".join(e.text for e in events if isinstance(e, Final) and e.text)
        counts += word_errors(utterance.text, text)
    return round(counts.rate, 4)


def write(folder: Path, found: dict[str, Any]) -> Path:
    """report.json, report.md, confidence.png and errors.png. -> the page."""
    (folder / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    _confidence(folder / "confidence.png", found)
    if "wer" in found:
        _errors(folder / "errors.png", found["wer"])
    page = folder / "report.md"
    page.write_text("\n".join(_page(found)) + "\n")
    return page


def _run(folder: Path) -> dict[str, Any]:
    """The run that ended; a second one may have begun meanwhile."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*/run.json"))]
    over = [run for run in runs if run["state"] in ("done", "rejected")]
    return dict((over or runs or [{"steps": []}])[0])


def _data(steps: dict[str, Any]) -> dict[str, Any]:
    def lines(step: str, pattern: str) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for path in sorted(Path(steps[step]["folder"]).glob(pattern))
            for line in path.read_text().splitlines()
        ]

    chosen = newest("select", steps)
    train, dev = lines(chosen, "train.jsonl"), lines(chosen, "dev.jsonl")
    gathered = lines("gather", "segments-*.jsonl")
    return {
        "gathered": len(gathered),
        "gathered_minutes": round(sum(one["duration_s"] for one in gathered) / 60, 1),
        "train": len(train),
        "dev": len(dev),
        "train_minutes": round(sum(one["duration"] for one in train) / 60, 1),
    }


def _mixed(step: dict[str, Any]) -> dict[str, Any] | None:
    """How far between the old weights and the new ones, and what else was tried."""
    printed = sorted((Path(step["folder"]) / "job").glob("out-*"))
    if not printed:
        return None
    found = json.loads(printed[-1].read_text())
    tried = [{key: one[key] for key in ("alpha", "gain", "worst_loss")} for one in found["points"]]
    return {"alpha": found["alpha"], "tried": tried}


def _page(found: dict[str, Any]) -> list[str]:
    def seconds(value: float | None) -> str:
        return "did not happen" if value is None else f"{value:.0f}"

    lines = [f"# The loop, scenario {found['scenario']}: {found['what']}", ""]
    silent = found["stages_s"]["alarm"] is None
    given_up = "no alarm, so nothing was to be learnt" if silent else "out of patience"
    lines += [f"It ended as: **{found['over'] or given_up}**.", ""]
    if "wer" in found:
        lines += ["| WER, greedy | before | after | relative |", "|---|---|---|---|"]
        names = {"held-out": "the drifted slice, held-out utterances",
                 "known": "what the model knew before"}  # fmt: skip
        for name, pair in found["wer"].items():
            change = pair["after"] / pair["before"] - 1 if pair["before"] else 0.0
            lines.append(
                f"| {names[name]} | {pair['before']:.1%} | {pair['after']:.1%} | {change:+.1%} |"
            )
        lines += ["", "![errors](errors.png)", ""]
    lines += ["| stage | seconds after the drift |", "|---|---|"]
    lines += [f"| {name} | {seconds(value)} |" for name, value in found["stages_s"].items()]
    lines += ["", "![confidence](confidence.png)", ""]
    lines += [f"Alarm: {text}" for text in found["alarms"]] + [""]
    if "data" in found:
        data = found["data"]
        lines += [
            f"{data['gathered']} segments gathered ({data['gathered_minutes']} minutes), of which "
            f"{data['train']} were trained on ({data['train_minutes']} minutes) and {data['dev']} "
            "decided how far to go.", "",
        ]  # fmt: skip
    if "gate" in found:
        verdict = "promoted" if found["gate"]["promote"] else "rejected"
        lines += [f"The gate {verdict}: {'; '.join(found['gate']['reasons']) or 'no objection'}.",
                  ""]  # fmt: skip
    sent_mb = found["bytes_over_the_air"] / 1e6
    lines += [f"Over the air: {sent_mb:.2f} MB to {len(DEVICES)} devices.",
              "", "| step | seconds | CPU seconds |", "|---|---|---|"]  # fmt: skip
    lines += [
        f"| {name} | {step['seconds']} | {step['cpu_seconds']} |"
        for name, step in found["steps"].items()
    ]
    lines += ["", "| device | update | at, s |", "|---|---|---|"]
    lines += [
        f"| {one['device']} | {one['state']} {one['version']} {one['error']} | {one['at_s']:.0f} |"
        for one in found["updates"]
    ]
    return lines


def _confidence(path: Path, found: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 3.5), layout="constrained")
    for device, colour in _COLOURS.items():
        mine = [one for one in found["confidence"] if one["device"] == device]
        at_s, values = [one["at_s"] for one in mine], [one["confidence"] for one in mine]
        axes.plot(at_s, values, color=colour, linewidth=0.5, alpha=0.4)
        smooth = [
            statistics.fmean(values[max(place - _SMOOTH, 0) : place + 1])
            for place in range(len(values))
        ]
        axes.plot(at_s, smooth, color=colour, label=device, linewidth=1.8)
    axes.axvline(0, color="black", linewidth=1)
    axes.text(0, 1.01, "drift", ha="center", transform=axes.get_xaxis_transform())
    for name, at_s in found["stages_s"].items():
        if at_s is not None:
            axes.axvline(at_s, color="grey", linestyle=":", linewidth=1)
            axes.text(at_s, 1.01, name, rotation=20, transform=axes.get_xaxis_transform())
    axes.set(xlabel="seconds after the first drifted utterance", ylabel="mean confidence")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _errors(path: Path, rates: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3), layout="constrained")
    for offset, when in ((-0.18, "before"), (0.18, "after")):
        bars = axes.bar(
            [place + offset for place in range(len(rates))],
            [100 * pair[when] for pair in rates.values()], width=0.36, label=when,
        )  # fmt: skip
        axes.bar_label(bars, fmt="%.1f")
    axes.set_xticks(range(len(rates)), list(rates))
    axes.set_ylabel("word error rate, %")
    axes.legend()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
