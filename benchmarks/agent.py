"""What being an agent costs beside recognising: CPU time against plain `transcribe`.

Both get the sample clips as one stream, a second of silence between them, as fast as it goes: once
through, and as often as `--times` says. Each run is a process, and its CPU time, start included, is
that of all its threads and children; what is compared runs in slices of 0.1 s by turns, as a shared
machine changes its speed by more than an agent costs. Two numbers come of the two lengths, as an
agent runs for days:

* per second of sound: the difference between the two, by the sound that one has more;
* start: what is left of the shorter run then. It is spent once, and given in seconds.

* listening: no consent, so every utterance is decided about and none is kept;
* keeping: with consent and the default policy, which keeps so much of the sample clips as the table
  says, until the budget of the day is spent: compressing is most of it;
* on a day: listening, one start, and what the default budget of a day (200 segments) adds to 24
  hours of such sound. Computed from the measured costs of a second heard and of a second kept.

With `--realtime` both also play that many times through the clips no faster than they were spoken,
beside each other: what waking up for every block costs, and looking after the house every second.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import Table
from edge_runtime.agent.config import RecordingSettings
from edge_runtime.agent.decisions import explain
from edge_runtime.agent.sampling import SamplingPolicy

DAY_S = 86_400
PAUSE_S = 1.0
SYSTEMS = ("transcribe", "listening", "keeping")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="runs (default: 7)")
    parser.add_argument(
        "--times", type=int, default=20, metavar="N", help="the clips so often (default: 20)"
    )
    parser.add_argument(
        "--realtime", type=int, default=0, metavar="N",
        help="also as often as they were spoken, which takes a minute each (default: 0)",
    )  # fmt: skip


@dataclass
class Kept:
    """What runs with a consent kept, by the length of their sound."""

    seconds: dict[int, list[float]] = field(default_factory=dict)  # of every run
    segments: list[float] = field(default_factory=list)  # s of each

    def note(self, times: int, state: Path) -> None:
        """What the agent with this state has kept."""
        margins = 2 * RecordingSettings().margin_s
        found = [
            each.facts["speech_s"] + margins
            for each in explain(state, last=100_000)
            if each.facts["outcome"]
        ]
        self.seconds.setdefault(times, []).append(sum(found))
        self.segments.extend(found)


def run(args: argparse.Namespace) -> dict[str, Any]:
    clips = [measure.load(path) for path in sorted((measure.ROOT / "samples").glob("*.flac"))]
    with tempfile.TemporaryDirectory() as folder:
        sounds, once_s = {}, 0.0
        for times in {1, args.times, args.realtime} - {0}:
            sounds[times] = Path(folder) / f"{times}.wav"
            once_s = _write(sounds[times], clips, times) / times
        kept = Kept()

        def command(system: str, times: int, *, realtime: bool = False) -> tuple[list[str], Path]:
            sound, state = str(sounds[times]), Path(tempfile.mkdtemp(dir=folder))
            if system == "transcribe":
                pace = ["--realtime"] if realtime else []
                return ["transcribe", "--quiet", *pace, "--bundle", str(args.bundle), sound], state
            config = _config(state, args.bundle, consent=system == "keeping")
            speed = "1" if realtime else "0"
            options = ["--config", str(config), "--speed", speed, "--show", "--files", sound]
            return ["agent", "run", *options], state

        spent: dict[str, list[float]] = {}
        for _ in range(args.repeats):
            for times in (1, args.times):
                commands = {system: command(system, times) for system in SYSTEMS}
                turns = {name: partial(_start, words) for name, (words, _) in commands.items()}
                for name, seconds in measure.take_turns(turns).items():
                    spent.setdefault(f"{name} {times}", []).append(seconds)
                kept.note(times, commands["keeping"][1] / "state")
        found = _costs(spent, args.times, once_s, kept)
        if args.realtime:
            found["realtime"] = _beside(
                {
                    (system, times): command(system, times, realtime=True)[0]
                    for system in ("transcribe", "listening")
                    for times in (1, args.realtime)
                }
            )
    return {"audio_s": once_s * args.times, **found}


def _costs(spent: dict[str, list[float]], times: int, once_s: float, kept: Kept) -> dict[str, Any]:
    heard_s = once_s * (times - 1)  # that the longer runs have more
    more = {
        system: [
            long - short
            for long, short in zip(spent[f"{system} {times}"], spent[f"{system} 1"], strict=True)
        ]
        for system in SYSTEMS
    }
    starts = {
        system: statistics.median(
            short - rest * once_s / heard_s
            for short, rest in zip(spent[f"{system} 1"], more[system], strict=True)
        )
        for system in SYSTEMS
    }
    found: dict[str, Any] = {
        "cpu_s": {name: [round(value, 3) for value in values] for name, values in spent.items()},
        "cpu_s_per_heard_s": statistics.median(more["transcribe"]) / heard_s,
        "start_cpu_s": starts,
    }
    for system in SYSTEMS[1:]:
        found[system] = {
            "per_audio_s": measure.median_ratio(more[system], more["transcribe"]),
            "start_cpu_s": starts[system] - starts["transcribe"],
        }
    kept_s = [
        long - short for long, short in zip(kept.seconds[times], kept.seconds[1], strict=True)
    ]
    found["kept_share"] = statistics.median(kept_s) / heard_s
    found["cpu_s_per_kept_s"] = statistics.median(
        (a - b) / seconds
        for a, b, seconds in zip(more["keeping"], more["listening"], kept_s, strict=True)
    )
    day = found["listening"]["start_cpu_s"] + found["cpu_s_per_kept_s"] * (
        SamplingPolicy().daily_segments * statistics.mean(kept.segments)
    )
    found["day"] = found["listening"]["per_audio_s"] + day / (DAY_S * found["cpu_s_per_heard_s"])
    return found


def _beside(commands: dict[tuple[str, int], list[str]]) -> dict[str, Any]:
    """All at once, as they mostly sleep; CPU seconds, and the ratio of what a second costs."""
    started = {key: _start(words) for key, words in commands.items()}
    spent = {key: measure.cpu_s(process) for key, process in started.items()}
    once, often = sorted({times for _, times in commands})
    more = {
        system: spent[system, often] - spent[system, once] for system in ("transcribe", "listening")
    }
    return {
        "cpu_s": {f"{system} {times}": round(value, 3) for (system, times), value in spent.items()},
        "per_audio_s": more["listening"] / more["transcribe"],
    }


def _write(path: Path, clips: Sequence[measure.Samples], times: int) -> float:
    """The clips `times` over, with pauses, as one recording; -> its seconds."""
    pause = np.zeros(round(PAUSE_S * measure.SAMPLE_RATE), np.float32)
    once = np.concatenate([part for clip in clips for part in (clip, pause)])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(measure.SAMPLE_RATE)
        file.writeframes(np.tile(np.rint(once * 32767).astype("<i2"), times).tobytes())
    return times * len(once) / measure.SAMPLE_RATE


def _start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "edge_runtime", *words],
        cwd=measure.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _config(folder: Path, bundle: Path, *, consent: bool) -> Path:
    lines = ["[device]", 'state = "state"', "[recognizer]", f'bundle = "{bundle}"']
    lines += ["[outbox]", "reserve_mb = 0"]
    if consent:
        (folder / "consent.toml").write_text('id = "c-1"\n', "utf-8")
        lines += ["[consent]", 'file = "consent.toml"']
    path = folder / "agent.toml"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def table(results: dict[str, Any]) -> Table:
    kept = f"agent that keeps {results['kept_share']:.0%} of the sound"
    rows = [["CPU time", "per second of sound", "start, CPU s"]]
    rows.append(
        [
            "`transcribe`",
            f"{1000 * results['cpu_s_per_heard_s']:.2f} ms",
            f"{results['start_cpu_s']['transcribe']:.2f}",
        ]
    )
    for name, system in (("agent without consent", "listening"), (kept, "keeping")):
        more = results[system]
        rows.append([name, _percent(more["per_audio_s"]), f"{results['start_cpu_s'][system]:.2f}"])
    rows.append(
        ["agent over a day with its budget of 200 segments", _percent(results["day"]), "in it"]
    )
    if "realtime" in results:
        ratio = results["realtime"]["per_audio_s"]
        rows.append(["agent without consent, no faster than spoken", _percent(ratio), ""])
    return rows


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def headline(results: dict[str, Any]) -> str:
    more = results["listening"]["per_audio_s"]
    return f"agent overhead: {100 * (more - 1):.1f} % per second of sound"


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
