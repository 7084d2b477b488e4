"""The gate's statistics: how often it promotes what is no better, and what it detects.

Simulated sets: speakers with 150 words on average, all equal or unequal (log-normal, the largest
tenth has two fifths of the words); word error rates of 12 % that vary over speakers by a factor
(log-normal, 0.4). Both models share 60 % of their errors, the rest come and go. The speaker effect
is the standard deviation of the challenger's relative change over speakers, whose mean is 1: on
average over speakers the two are equally good.

False promotions: share of sets on which the challenger is found better at nominal 5 % although it
is not (`superiority`), or not worse by 2 % although it is by exactly that (`non-inferiority`).
`percentile` is the plain block bootstrap on sets of the same kind. Power: share on which a true
improvement is found. Detectable: what `cloud power` says of such a set, from the champion's errors,
with 80 % power, and the share of sets on which an improvement of that size is then found.

The largest of 24 measured rates is more likely too high than too low, so the kind that has it is
simulated again with other random numbers (`again`). The 95 % interval of a share of 5 % over 20,000
sets is +-0.3 points, that of a power over 2000 is +-2.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrain_cloud.gate.compare import Blocks, compare
from autotrain_cloud.gate.power import Assumptions, detectable
from benchmarks import measure
from benchmarks.measure import Table

SPEAKERS = (10, 20, 60, 200)
EFFECTS = (0.0, 0.15, 0.3)
CHANGES = (0.03, 0.05, 0.1, 0.2)
LEVEL, MARGIN, CHURN, WER = 0.05, 0.02, 0.4, 0.12
DRAWS = 1000
KIND = ("speakers", "effect", "unequal")

Array = NDArray[np.float64]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sets", type=int, default=20_000, help="per false rate (default: 20000)")
    parser.add_argument("--power-sets", type=int, default=2000, help="per power (default: 2000)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    cells = []
    for speakers in SPEAKERS:
        for effect in EFFECTS:
            for unequal in (False, True):
                measure.say(f"{speakers} speakers, effect {effect}, {unequal=}")
                cells.append(cell(speakers, effect, unequal, args.sets, args.power_sets))
    return {
        "level": LEVEL,
        "margin": MARGIN,
        "sets": args.sets,
        "worst_superiority": max(one["superiority"] for one in cells),
        "worst_non_inferiority": max(one["non_inferiority"] for one in cells),
        "worst_percentile": max(one["percentile"] for one in cells),
        "worst": {
            "superiority": worst(cells, "superiority", 0.0, args.sets),
            "non_inferiority": worst(cells, "non_inferiority", MARGIN, args.sets),
        },
        "cells": cells,
    }


def worst(cells: list[dict[str, Any]], name: str, margin: float, sets: int) -> dict[str, Any]:
    """The kind with the highest rate, and its rate on other sets of that kind."""
    from scipy.stats import binomtest

    kind = {key: max(cells, key=lambda one: one[name])[key] for key in KIND}
    measure.say(f"the worst of {name} again: {kind}")
    rng = np.random.default_rng([round(100 * value) for value in (*kind.values(), margin)])
    rate = share_found(rng, **kind, change=margin, count=sets, margin=margin)
    interval = binomtest(round(rate * sets), sets).proportion_ci()
    return {**kind, "again": rate, "interval": [float(interval.low), float(interval.high)]}


def share_found(
    rng: np.random.Generator,
    speakers: int,
    effect: float,
    unequal: bool,
    change: float,
    count: int,
    margin: float = 0.0,
) -> float:
    """Of `count` sets, those on which the challenger passes."""
    simulated = (simulate(rng, speakers, effect, unequal, change) for _ in range(count))
    results = (compare(one, margin=margin, level=LEVEL, draws=DRAWS) for one in simulated)
    return sum(result.passed for result in results) / count


def cell(speakers: int, effect: float, unequal: bool, sets: int, power_sets: int) -> dict[str, Any]:
    rng = np.random.default_rng([speakers, round(100 * effect), unequal])

    def found(change: float, count: int, margin: float = 0.0) -> float:
        return share_found(rng, speakers, effect, unequal, change, count, margin)

    typical = [simulate(rng, speakers, effect, unequal, 0.0) for _ in range(50)]
    assumed = Assumptions(churn=CHURN, effect=effect)
    least = float(
        np.median(
            [
                detectable(one.words, one.champion, level=LEVEL, assumptions=assumed).detectable
                for one in typical
            ]
        )
    )
    return {
        "speakers": speakers,
        "effect": effect,
        "unequal": unequal,
        "words": round(float(np.mean([one.words.sum() for one in typical]))),
        "superiority": found(0.0, sets),
        "non_inferiority": found(MARGIN, sets, MARGIN),
        "percentile": percentile(rng, speakers, effect, unequal, sets),
        "power": {f"{change:g}": found(-change, power_sets) for change in CHANGES},
        "detectable": least,
        "power_at_detectable": found(-least, power_sets) if least < 0.9 else None,
    }


def simulate(
    rng: np.random.Generator, speakers: int, effect: float, unequal: bool, change: float
) -> Blocks:
    """A set on which the challenger's true error rate is (1 + change) times the champion's."""
    words = np.full(speakers, 150.0)
    if unequal:
        words = np.maximum(20, np.round(150 * np.exp(rng.normal(-0.5, 1, speakers))))
    rate = np.minimum(WER * np.exp(rng.normal(-0.08, 0.4, speakers)), 0.6)
    factor = (1 + change) * np.exp(rng.normal(-(effect**2) / 2, effect, speakers))
    expected = words * rate
    shared = expected * (1 - CHURN) * np.minimum(factor, 1)
    common = rng.poisson(shared)
    return Blocks(
        names=tuple(map(str, range(speakers))),
        words=words,
        champion=common + rng.poisson(expected - shared).astype(np.float64),
        challenger=common + rng.poisson(expected * factor - shared).astype(np.float64),
    )


def percentile(
    rng: np.random.Generator, speakers: int, effect: float, unequal: bool, sets: int
) -> float:
    """The plain block bootstrap's share of false promotions."""
    drawn = rng.multinomial(speakers, np.full(speakers, 1 / speakers), size=DRAWS)
    promoted = 0
    for _ in range(sets):
        one = simulate(rng, speakers, effect, unequal, 0.0)
        promoted += bool(np.mean(drawn @ (one.challenger - one.champion) < 0) >= 1 - LEVEL)
    return promoted / sets


def table(results: dict[str, Any]) -> Table:
    header = ["speakers", "words", "effect", "sizes", "superiority", "non-inferiority",
              "percentile", *(f"finds {change:.0%}" for change in CHANGES), "detectable",
              "found then"]  # fmt: skip
    rows = [header]
    for one in results["cells"]:
        rates = (one[name] for name in ("superiority", "non_inferiority", "percentile"))
        then = one["power_at_detectable"]
        rows.append(
            [
                str(one["speakers"]),
                str(one["words"]),
                f"{one['effect']:g}",
                "unequal" if one["unequal"] else "equal",
                *(f"{rate:.1%}" for rate in rates),
                *(f"{power:.0%}" for power in one["power"].values()),
                f"{one['detectable']:.1%}",
                "" if then is None else f"{then:.0%}",
            ]
        )
    return rows


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
