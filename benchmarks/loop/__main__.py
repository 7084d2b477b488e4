"""`python -m benchmarks.loop`: from a drift to an updated fleet, with nobody touching anything.

All devices first hear voices that the model knows. Then those of the slice `kitchen` hear the
scenario, and that of `hall` goes on as before. Telemetry raises an alarm, segments are labelled by
pocketsphinx, filtered by whether the recogniser's own beam search agrees, selected, and trained on;
the INT8 bundle that comes out is judged against the one that runs, signed, and given to one device
and then to the others.

WER before and after is of bundles as they ship, greedy, on utterances that nobody trained on and no
gate has heard: `held-out` is the scenario, `known` the voices and sentences of before. Times are of
the wall clock of this machine, from the first drifted utterance.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.loop import report
from benchmarks.loop.speech import PEOPLE, SCENARIOS, Counts, Speech
from benchmarks.loop.story import Story
from benchmarks.loop.view import View
from benchmarks.loop.world import BUNDLE, Pace, World, served
from edge_runtime.bundle import Bundle
from edge_runtime.errors import EdgeError
from edge_runtime.manifest import Utterance, read_manifest
from tests.broker import Broker

OWN_PACE = "default: the scenario's own"
SETTLE_S = 20.0  # after the end, so that the new model is seen at work


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("loop"), help="folder (default: loop)")
    parser.add_argument(
        "--scenario", choices=tuple(SCENARIOS), default="voice",
        help="; ".join(f"{one.name}: {one.what}" for one in SCENARIOS.values()),
    )  # fmt: skip
    parser.add_argument(
        "--speech", type=Path, help="manifest of people for `readers` (default: one, of Debian)"
    )
    parser.add_argument(
        "--bundle", type=Path, default=BUNDLE, metavar="FOLDER",
        help="what devices begin with, FOLDER.safetensors and FOLDER.tokenizer beside it (default:"
        " the one that ships)",
    )  # fmt: skip
    parser.add_argument("--speed", type=float, default=4.0, help="times real time (default: 4)")
    parser.add_argument("--minutes", type=float, help=f"of new speech that start it ({OWN_PACE})")
    parser.add_argument("--steps", type=int, help=f"of training ({OWN_PACE})")
    parser.add_argument(
        "--rounds", type=int, choices=(1, 2),
        help=f"of training; in the second the student's own words are learnt ({OWN_PACE})",
    )  # fmt: skip
    parser.add_argument(
        "--replay-share", type=float, metavar="X",
        help=f"of known speech in what is trained on ({OWN_PACE})",
    )  # fmt: skip
    parser.add_argument(
        "--drift-play", type=int, metavar="N", help=f"utterances of each device ({OWN_PACE})"
    )
    parser.add_argument(
        "--patience", type=float, default=120.0, metavar="MINUTES",
        help="after the drift, then it gives up in any case (default: 120)",
    )  # fmt: skip
    parser.add_argument(
        "--alarm", type=float, default=20.0, metavar="MINUTES",
        help="after the drift, then it gives up if there is no alarm (default: 20)",
    )  # fmt: skip
    for name, count in (
        ("known-play", 120), ("replay", 6000), ("guard-dev", 300), ("guard", 300), ("known", 400),
        ("target", 150), ("held-out", 250),
    ):  # fmt: skip
        parser.add_argument(
            f"--{name}", type=int, default=count, metavar="N", help=f"utterances (default: {count})"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loop", description=(__doc__ or "").splitlines()[0]
    )
    configure(parser)
    args = parser.parse_args()
    scenario = SCENARIOS[args.scenario]
    people: list[Utterance] = []
    if args.speech is not None:
        if not scenario.real:
            parser.error("--speech goes with --scenario readers")
        try:
            people = read_manifest(args.speech)
        except EdgeError as error:
            parser.error(f"--speech: {error}")
        if not people:
            parser.error(f"--speech: {args.speech}: holds no utterance")
        name = args.speech.stem
        scenario = replace(
            scenario, name=f"{scenario.name}-{name}", what=f"people of {name}", **PEOPLE
        )
    for name in ("drift_play", "minutes", "steps", "rounds", "replay_share"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(scenario, name))
    bundle = args.bundle.resolve()
    beside = (bundle.with_name(f"{bundle.name}.{kind}") for kind in ("safetensors", "tokenizer"))
    if missing := [str(path) for path in (bundle, *beside) if not path.exists()]:
        parser.error(f"--bundle: not there: {', '.join(missing)}")
    try:
        family = Bundle.open(bundle).manifest.name
    except EdgeError as error:
        parser.error(f"--bundle: {error}")
    if not 0 <= args.replay_share < 1:
        parser.error("--replay-share: from 0 to below 1")
    out = args.out.resolve()
    speech = Speech(out / "sets", scenario)
    print(f"speech, in {speech.folder} ...", flush=True)
    try:
        speech.make(Counts(**{n: getattr(args, n) for n in Counts.__dataclass_fields__}),
                    people)  # fmt: skip
    except FileNotFoundError as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without ending what was begun
    pace = Pace(args.speed, args.steps, args.minutes, args.rounds, args.replay_share)
    world = World(out / scenario.name, speech, pace, bundle)
    world.clear()
    releases = ("release", "--repo", world.out / "repository", "--keys", world.out / "keys")
    world.call(*releases, "init", family)
    world.call(*releases, "publish", bundle)  # what devices have: the base of deltas
    with Broker.start(world.out / "broker") as broker, served(world.out / "repository") as web:
        try:
            store, begun = world.begin(broker, web.url)
            story = Story(begun)
            until = begun + min(args.alarm, args.patience) * 60
            with View(f"{scenario.name}: {scenario.what}") as view:
                while time.time() < until:
                    view.show(story, story.follow(store), store)
                    if story.over:
                        until = min(until, time.time() + SETTLE_S)
                    elif story.first("alarm") is not None:
                        until = begun + args.patience * 60
                    time.sleep(2)
        finally:
            world.stop()
        print("word error rates ...", flush=True)
        found = report.make(world, store, story, web.bytes)
        store.close()
    print(report.write(world.out, found).read_text())
    return 0 if story.over == "completed" else 1


if __name__ == "__main__":
    sys.exit(main())
