"""What being an agent costs beside recognising: CPU time against plain `transcribe`.

`transcribe` and `agent run` get the same files, several times over, as fast as they go; each run is
a process, and its CPU time, start included, is that of all its threads and children.

* listening: no consent, so every utterance is decided about and none is kept;
* keeping: with consent and the default policy, which on the sample clips keeps every second one:
  compressing is most of it;
* on a day: listening, and what the default budget of a day (200 segments) adds to 24 hours of
  sound. Computed from the measured costs of a second heard and of a second kept.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import Table
from edge_runtime.agent.config import RecordingSettings
from edge_runtime.agent.decisions import explain
from edge_runtime.agent.sampling import SamplingPolicy
from edge_runtime.audio import open_audio

DAY_S = 86_400


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="runs (default: 5)")
    parser.add_argument(
        "--times", type=int, default=10, metavar="N", help="the clips so often (default: 10)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    clips = sorted((measure.ROOT / "samples").glob("*.flac"))
    files = [str(path) for path in clips * args.times]
    seconds = sum(_duration(path) for path in clips) * args.times
    with tempfile.TemporaryDirectory() as folder:
        kept_s: list[float] = []  # of every run
        segment_s: list[float] = []  # of all kept

        def transcribe() -> float:
            return _cpu("transcribe", "--quiet", "--bundle", str(args.bundle), *files)

        def agent(*, consent: bool) -> float:
            state = Path(tempfile.mkdtemp(dir=folder))
            config = _config(state, args.bundle, consent=consent)
            options = ("--config", str(config), "--speed", "0", "--show", "--files")
            spent = _cpu("agent", "run", *options, *files)
            if consent:
                margins = 2 * RecordingSettings().margin_s
                kept = [
                    each.facts["speech_s"] + margins
                    for each in explain(state / "state", last=100_000)
                    if each.facts["outcome"]
                ]
                kept_s.append(sum(kept))
                segment_s.extend(kept)
            return spent

        systems = {
            "transcribe": transcribe,
            "listening": lambda: agent(consent=False),
            "keeping": lambda: agent(consent=True),
        }
        spent = measure.alternate(systems, args.repeats)
    listening = measure.median_ratio(spent["listening"], spent["transcribe"])
    per_kept_s = statistics.median(
        (a - b) / kept
        for a, b, kept in zip(spent["keeping"], spent["listening"], kept_s, strict=True)
    )
    per_heard_s = statistics.median(spent["transcribe"]) / seconds
    segments = SamplingPolicy().daily_segments
    day_s = segments * statistics.mean(segment_s)
    return {
        "audio_s": seconds,
        "cpu_s": {name: [round(value, 2) for value in values] for name, values in spent.items()},
        "listening": listening,
        "keeping": measure.median_ratio(spent["keeping"], spent["transcribe"]),
        "kept_share": statistics.median(kept_s) / seconds,
        "cpu_s_per_kept_s": per_kept_s,
        "cpu_s_per_heard_s": per_heard_s,
        "day": listening + day_s * per_kept_s / (DAY_S * per_heard_s),
    }


def _duration(path: Path) -> float:
    with open_audio(path) as source:
        return source.duration_s or 0.0


def _cpu(*command: str) -> float:
    """Seconds of user and system time of a run of the command."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_runtime", *command],
        cwd=measure.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


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
    rows = [
        ("agent without consent", results["listening"]),
        (f"agent that keeps {results['kept_share']:.0%} of the sound", results["keeping"]),
        ("agent over a day with its budget of 200 segments", results["day"]),
    ]
    return [
        ["CPU time", "against `transcribe`"],
        *([name, f"{100 * (ratio - 1):+.1f} %"] for name, ratio in rows),
    ]


def headline(results: dict[str, Any]) -> str:
    return f"agent overhead: {100 * (results['listening'] - 1):.1f} %"


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
