"""What a bundle costs beside another one: time, memory and bytes, of the same recordings.

Each run is a process that does nothing else.  They alternate, so that whatever else the machine
does disturbs both, and the time is the processor's.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autotrain_cloud.gate.evaluate import Hearing, in_process, shipping_precision
from autotrain_cloud.gate.sets import EvalSet
from edge_runtime.bundle import Bundle
from edge_runtime.timing import alternate, median_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A cost of both."""

    champion: float
    challenger: float
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Medians over the runs; the ratio of times is the median of the ratios of neighbours."""

    cpu_per_audio_s: Pair
    peak_rss_mb: Pair
    model_bytes: Pair  # of the graph that is run
    audio_s: float  # of one run
    runs: int


def measure_cost(
    champion: Path,
    challenger: Path,
    eval_set: EvalSet,
    hearing: Hearing,
    *,
    runs: int = 5,
    seconds: float = 60.0,
) -> Cost:
    """On the first recordings of the set, until they are `seconds` long; at least one."""
    total = itertools.accumulate(r.utterance.duration for r in eval_set.recordings)
    count = next((i for i, end in enumerate(total, start=1) if end >= seconds), None)
    chosen = [recording.utterance for recording in eval_set.recordings[:count]]
    audio = [str(utterance.audio_filepath.absolute()) for utterance in chosen]
    systems = {}
    sizes = []
    for name, path in (("champion", champion), ("challenger", challenger)):
        bundle = Bundle.open(path)
        precision = shipping_precision(bundle, hearing.precision)
        sizes.append(float(bundle.model(precision).stat().st_size))
        systems[name] = partial(
            in_process,
            "time",
            bundle=str(path.absolute()),
            precision=precision,
            chunk_ms=hearing.chunk_ms or bundle.manifest.default_chunk_ms,
            beam=hearing.beam,
            audio=audio,
        )
    found = alternate(systems, runs)
    return Cost(
        cpu_per_audio_s=_pair(found, "cpu_per_audio_s"),
        peak_rss_mb=_pair(found, "peak_rss_mb"),
        model_bytes=Pair(champion=sizes[0], challenger=sizes[1], ratio=sizes[1] / sizes[0]),
        audio_s=sum(utterance.duration for utterance in chosen),
        runs=runs,
    )


def _pair(found: dict[str, list[dict[str, Any]]], name: str) -> Pair:
    values: dict[str, Sequence[float]] = {
        system: [run[name] for run in runs] for system, runs in found.items()
    }
    return Pair(
        champion=statistics.median(values["champion"]),
        challenger=statistics.median(values["challenger"]),
        ratio=median_ratio(values["challenger"], values["champion"]),
    )
