"""`vitconformer synth`: make a corpus of synthetic speech from plain text."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from edge_runtime.errors import ConfigError

NAME = "synth"
HELP = "synthesise labelled speech from books, with free text-to-speech voices"

log = logging.getLogger(__name__)

_SPLITS = {"train": 0.96, "dev": 0.02, "test": 0.02}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to `parser`."""
    parser.add_argument(
        "--text", type=Path, nargs="+", required=True, metavar="PATH",
        help="plain text files, or folders of .txt files (Project Gutenberg's, for example)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="where the audio and manifest.jsonl go; --split all: into DIR/train, /dev and /test",
    )  # fmt: skip
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--hours", type=float, metavar="H", help="hours of speech to make")
    amount.add_argument(
        "--utterances", type=int, metavar="N", help="utterances to make, instead of hours"
    )
    parser.add_argument(
        "--voices", default="all", metavar="LIST",
        help="comma-separated voices or engines (flite, festival, espeak-ng, rhvoice, pico, "
        "kokoro), 'all' (but kokoro and the held-out ones) or 'held-out' (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--exclude-voices", default="", metavar="LIST", help="comma-separated, as --voices"
    )
    parser.add_argument(
        "--split", choices=(*_SPLITS, "all"), default="all",
        help="sentences to read; each is in one split only, whatever the voice (default: all)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--shard", type=int, default=128, metavar="N",
        help="utterances made at a time by a process, and lost when it is killed (default: 128)",
    )  # fmt: skip
    parser.add_argument(
        "--tract", type=float, default=0.0, metavar="X",
        help="scale each utterance's vocal tract by up to exp(±X): many speakers out of few "
        "voices; 0.16 stays human (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--augment", choices=("none", "light", "full"), default="none",
        help="rooms, noise, speed and level changes in the audio itself (default: none)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Make the corpora; skipped utterances are counted on stderr."""
    from tqdm import tqdm

    from training.synth import Settings, synthesise
    from training.text import read_books, split_of, utterances
    from training.voices import select

    if (args.hours or args.utterances) <= 0 or args.jobs < 1 or args.shard < 1:
        raise ConfigError("--hours, --utterances, --jobs and --shard must be positive")
    voices = select(_names(args.voices), exclude=_names(args.exclude_voices))
    spoken = utterances(read_books(args.text))
    for split in _SPLITS if args.split == "all" else (args.split,):
        whole = args.split != "all"
        settings = Settings(
            utterances=tuple(u for u in spoken if split_of(u.text) == split),
            voices=tuple(voice.name for voice in voices),
            seed=args.seed,
            augment=args.augment,
            tract=args.tract,
            shard=args.shard,
        )
        part = 1.0 if whole else _SPLITS[split]
        hours = None if args.hours is None else args.hours * part
        count = None if args.utterances is None else max(1, round(args.utterances * part))
        out = args.out if whole else args.out / split
        unit = "h" if hours is not None else "utt"
        with tqdm(
            total=hours or count, unit=unit, desc=split, file=sys.stderr, disable=None,
            bar_format="{l_bar}{bar}| {n:.2f}/{total:.2f} {unit} [{elapsed}<{remaining}]",
        ) as bar:  # fmt: skip

            def progress(seconds: float, n: int, bar: tqdm = bar, unit: str = unit) -> None:
                bar.n = seconds / 3600 if unit == "h" else n
                bar.refresh()

            skipped = synthesise(
                settings, out, hours=hours, count=count, jobs=args.jobs, progress=progress
            )
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(skipped.items())) or "none"
        sys.stderr.write(f"{split}: {out / 'manifest.jsonl'}; skipped: {reasons}\n")
    return 0


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())
