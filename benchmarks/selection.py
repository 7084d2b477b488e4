"""Selection: does it find the speech that a domain's example sentences describe?

Each text file is a domain, its sentences are what devices sent; labels are the sentences
themselves. With 100 examples of one domain, which are not among the candidates, 5 % of the hours
are selected for it; precision is the share of selected segments that are from its book. Random
takes the same hours from all. Lift is the precision over the domain's share of the candidates:
what random gets on average; one over that share, 10 at 10 %, is the most that there can be.
Candidates of the target are thinned to `--share` of all, as a new domain is rare in a fleet;
sentences are 8 to 22 words long.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotrain_cloud.labels.records import Label
from autotrain_cloud.labels.text import plain
from autotrain_cloud.segments import Segment
from autotrain_cloud.selection.select import SelectionSettings, select
from benchmarks import measure
from benchmarks.measure import Table

EXAMPLES = 100


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", type=Path, required=True, metavar="DIR", help="a .txt per domain")
    parser.add_argument("--per-domain", type=int, default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--share", type=float, default=0.1, help="of the target (default: 0.1)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    books = {}
    for path in sorted(args.text.glob("*.txt")):
        found = sentences(path.read_text("utf-8", errors="replace"), args.per_domain)
        if len(found) >= 3 * EXAMPLES:
            books[path.stem] = found
        else:
            measure.say(f"{path.name}: {len(found)} sentences are too few; left out")
    if len(books) < 2:
        raise SystemExit("--text: needs a folder with at least two .txt files")
    return {name: precision(name, books, args.share) for name in books}


def precision(target: str, books: dict[str, list[str]], share: float) -> dict[str, Any]:
    """Of what is selected for one domain."""
    own, others = (
        books[target],
        [(n, t) for n, texts in books.items() if n != target for t in texts],
    )
    examples, rest = own[:EXAMPLES], own[EXAMPLES:]
    count = min(len(rest), round(len(others) * share / (1 - share)))
    candidates = [*others, *((target, text) for text in rest[:count])]
    labels = [label(i, name, text) for i, (name, text) in enumerate(candidates)]
    origin = {one.segment.id: name for one, (name, _) in zip(labels, candidates, strict=True)}
    hours = 0.05 * sum(one.segment.duration_s for one in labels) / 3600
    settings = SelectionSettings(
        target="target", hours=hours, max_device_hours=hours, replay_share=0.0, diversity=0.3
    )
    start = time.process_time()
    rows = select(labels, settings, examples={"target": examples}).rows
    spent = time.process_time() - start
    hit = sum(origin[row.segment_id] == target for row in rows) / len(rows)
    chance = random.Random(0).sample(labels, len(rows))
    by_chance = sum(origin[one.segment.id] == target for one in chance) / len(rows)
    base = count / len(candidates)
    return {
        "candidates": len(candidates), "selected": len(rows), "base_rate": base,
        "precision": hit, "random": by_chance, "lift": hit / base, "cpu_s": spent,
    }  # fmt: skip


def label(number: int, name: str, text: str) -> Label:
    words = text.split()
    segment = Segment(
        id=f"{number:06}", audio="none", duration_s=0.4 * len(words), text="", device=f"d{number}",
        confidence=0.5,
    )  # fmt: skip
    return Label(
        segment=segment, text=text, source="teacher", decision="keep", triage="gold", reasons=(),
        trust=1.0, outcomes=(), speech_s=1.0, voiced_s=1.0, snr_db=20.0, teacher_device=0.5,
    )  # fmt: skip


def sentences(book: str, count: int) -> list[str]:
    """Different sentences of running prose, drawn from all of the book."""
    start, end = len(book) // 20, len(book) - len(book) // 20  # title pages and licences
    found = (plain(s) for s in re.split(r"(?<=[.!?])\s+", " ".join(book[start:end].split())))
    good = [s for s in dict.fromkeys(found) if 8 <= len(s.split()) <= 22]
    return random.Random(0).sample(good, min(count, len(good)))


def table(results: dict[str, Any]) -> Table:
    rows = [["domain", "candidates", "its share", "precision", "random", "lift", "CPU s"]]
    for name, found in results.items():
        rows.append([
            name, str(found["candidates"]), f"{found['base_rate']:.1%}",
            f"{found['precision']:.1%}", f"{found['random']:.1%}", f"{found['lift']:.1f}",
            f"{found['cpu_s']:.1f}",
        ])  # fmt: skip
    return rows


def headline(results: dict[str, Any]) -> str:
    lifts: Sequence[float] = sorted(found["lift"] for found in results.values())
    return f"lift {lifts[0]:.1f} to {lifts[-1]:.1f}, median {lifts[len(lifts) // 2]:.1f}"


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
