"""The weights of a bundle's language model, tuned on development data.

The graph runs once over the data; the search is repeated over its log-probabilities.  Weights are
found by coordinate search: along one of them, then along the next, until nothing gets better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.audio import open_audio
from edge_runtime.bundle import Bundle
from edge_runtime.commands.options import DEFAULT_BEAM
from edge_runtime.decoding import BeamConfig, decoder_factory
from edge_runtime.engine import Engine
from edge_runtime.features import open_frontend
from edge_runtime.manifest import Utterance
from edge_runtime.metrics import ErrorCounts, word_errors
from edge_runtime.recognizer import TAIL_S
from edge_runtime.tokens import Vocabulary

# Fields of `BeamConfig` and the values that are tried.
GRID = {
    "lm_weight": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
    "word_bonus": (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
    "unknown_logprob": (-10.0, -12.0, -16.0, -20.0, -25.0, -30.0),
    "letter_logprob": (0.0, -0.5, -1.0, -1.5, -2.0, -3.0),
    "blank_penalty": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5),
}
START = (0.4, 1.0, -20.0, -1.0, 0.5)

Weights = tuple[float, ...]  # in the order of GRID


@dataclass(frozen=True)
class Scored:
    """What a recogniser said of an utterance before any search."""

    text: str  # the reference
    logprobs: NDArray[np.float32]  # [T, V]


def score(bundle: Bundle, utterances: Iterable[Utterance]) -> list[Scored]:
    """Run the graph at the bundle's own chunk size."""
    engine = Engine.from_bundle(bundle)
    frontend = open_frontend(engine.spec.frontend)
    tail = np.zeros(round(TAIL_S * engine.spec.sample_rate), np.float32)
    session = engine.session()
    found = []
    for utterance in utterances:
        session.reset()
        with open_audio(utterance.audio_filepath) as source:
            session.push(frontend.compute(np.concatenate([*source.blocks(), tail])))
        session.finish()
        blocks = []
        while outputs := session.step():
            blocks.append(outputs[0].logprobs.copy())
        found.append(Scored(utterance.text, np.concatenate(blocks)))
    return found


def errors(scored: Iterable[Scored], vocabulary: Vocabulary, config: BeamConfig) -> ErrorCounts:
    """Word errors of the search."""
    new_decoder = decoder_factory(config, vocabulary)
    total = ErrorCounts()
    for one in scored:
        decoder = new_decoder()
        decoder.advance(one.logprobs)
        tokens = decoder.split(decoder.frames)
        total += word_errors(one.text, vocabulary.detokenise([token.id for token in tokens]))
    return total


def search(
    rate: Callable[[Weights], float], start: Weights
) -> tuple[Weights, dict[Weights, float]]:
    """Coordinate descent over the grid; -> the best weights, and everything that was tried."""
    tried: dict[Weights, float] = {}

    def at(weights: Weights) -> float:
        if weights not in tried:
            tried[weights] = rate(weights)
        return tried[weights]

    best = start
    while True:
        before = best
        for axis, values in enumerate(GRID.values()):
            best = min([best, *((*best[:axis], v, *best[axis + 1 :]) for v in values)], key=at)
        if best == before:
            return best, tried


def tune(
    bundle: Path,
    manifests: Mapping[str, Sequence[Utterance]],
    *,
    lm: Path | None = None,
    beam: int = DEFAULT_BEAM,
    progress: Callable[[Weights, float], object] = lambda weights, rate: None,
) -> tuple[Weights, dict[Weights, float]]:
    """Weights with the least mean of the sets' word error rates, so that each set counts alike."""
    opened = Bundle.open(bundle)
    vocabulary = opened.vocabulary()
    sets = [score(opened, utterances) for utterances in manifests.values()]
    file = str(lm) if lm is not None else opened.decoding().get("lm")

    def rate(weights: Weights) -> float:
        fields: dict[str, Any] = dict(zip(GRID, weights, strict=True))
        config = BeamConfig(beam=beam, lm=file, **fields)
        mean = float(np.mean([errors(scored, vocabulary, config).rate for scored in sets]))
        progress(weights, mean)
        return mean

    return search(rate, START)
