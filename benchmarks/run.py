"""All benchmarks, one after the other, each in its own process; then the documents.

    python benchmarks/run.py --manifest seen-voices=test.jsonl --manifest reader-5652=real.jsonl
    python benchmarks/run.py --only sherpa gemm

Records go to benchmarks/results/; a benchmark that fails leaves its old record and the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import measure, report
from benchmarks.measure import RESULTS

WITH_MANIFESTS = (
    "accuracy",
    "robustness",
    "confidence",
    "int8",
    "labels",
)  # the others measure speed, on the sample clips
WITH_CHECKPOINT = ("parity", "accuracy")
# Need models, texts or reports that are not here, the machine for themselves, or many minutes.
BY_HAND = ("delta", "fleet_sim", "monitor", "pipeline", "rollout", "scenarios", "selection")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=report.ORDER, help="these (default: most)")
    parser.add_argument("--bundle", type=measure.absolute, metavar="DIR")
    measure.add_checkpoint_option(parser, default=None)
    measure.add_manifest_option(
        parser, default="for accuracy, robustness, confidence, int8 and labels"
    )
    args = parser.parse_args()
    failed = []
    for name in args.only or [name for name in report.ORDER if name not in BY_HAND]:
        options = [f"--bundle={args.bundle}"] if args.bundle else []
        if args.checkpoint and name in WITH_CHECKPOINT:
            options.append(f"--checkpoint={args.checkpoint}")
        if name in WITH_MANIFESTS:
            options += [f"--manifest={manifest}" for manifest in args.manifest]
        measure.say(f"{name} ...")
        start = time.monotonic()
        program = Path(__file__).with_name(f"{name}.py")
        done = subprocess.run(
            [sys.executable, str(program), "--json", *options], stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            failed.append(name)
            continue
        record = json.loads(done.stdout)
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        measure.say(f"{name}: {time.monotonic() - start:.0f} s")
    report.main()
    if failed:
        measure.say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
