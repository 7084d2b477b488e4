"""Noise and rooms: word error rates with other people talking, in a room, and words out of nothing.

The recogniser runs greedily at one chunk size over every test set as recorded, with babble at
several signal-to-noise ratios, and in a simulated room. Babble is two to six other utterances of
the same set mixed together, at a level below the speech while it is active. The room is a random
shoebox with RT60 0.4 s and the mouth 1.5 m from the microphone (`training.augment`). Everything is
drawn from seeds, so every model meets the same sounds.

Words out of nothing are words per minute of digital silence and of white, pink and brown noise and
mains hum, each at -60, -40 and -20 dB of full scale, one minute each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import SAMPLE_RATE, Samples, Table

if TYPE_CHECKING:
    from edge_runtime.recognizer import Recognizer

SNRS_DB = (20, 10, 5, 0)
RT60_S, DISTANCE_M = 0.4, 1.5
NOISES = ("white", "pink", "brown", "hum")
LEVELS_DB = (-60, -40, -20)
NOISE_S = 60.0
CONDITIONS = ("as recorded", *(f"babble {snr} dB" for snr in SNRS_DB), "room")


def configure(parser: argparse.ArgumentParser) -> None:
    measure.add_manifest_option(parser, default="default: the sample clips")
    parser.add_argument("--limit", type=int, default=100, help="utterances per set (default: 100)")
    parser.add_argument("--chunk-ms", type=int, default=320, help="default: 320")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from edge_runtime.recognizer import Recognizer

    recognizer = Recognizer.open(args.bundle, chunk_ms=args.chunk_ms, precision="float32")
    sets = {}
    for name, utterances in measure.manifests(args.manifest, args.limit).items():
        clips = [measure.load(u.audio_filepath) for u in utterances]
        texts = [u.text for u in utterances]
        sets[name] = {"utterances": len(clips)}
        for condition in CONDITIONS:
            measure.say(f"{name}: {condition}")
            sets[name][condition] = error_rate(recognizer, clips, texts, condition)
    return {"chunk_ms": args.chunk_ms, "sets": sets, "nothing": words_out_of_nothing(recognizer)}


def error_rate(
    recognizer: Recognizer, clips: Sequence[Samples], texts: Sequence[str], condition: str
) -> float:
    from edge_runtime.metrics import ErrorCounts, word_errors

    total = ErrorCounts()
    for index, text in enumerate(texts):
        total += word_errors(text, recognise(recognizer, altered(clips, index, condition)))
    return total.rate


def altered(clips: Sequence[Samples], index: int, condition: str) -> Samples:
    """Clip `index` in a condition; the same for every model."""
    from training.augment import add_noise, make_noise, reverberate, room_response

    clip = clips[index]
    rng = np.random.default_rng([index, *condition.encode()])
    if condition == "room":
        return reverberate(clip, room_response(RT60_S, DISTANCE_M, rng))
    if condition.startswith("babble"):
        others = [other for other in clips if other is not clip]
        return add_noise(
            clip, make_noise("babble", len(clip), rng, others), float(condition.split()[1])
        )
    return clip


def words_out_of_nothing(recognizer: Recognizer) -> dict[str, Any]:
    found = {kind: len(recognise(recognizer, sound).split()) for kind, sound in nothing()}
    return {"words": found, "words_per_minute": sum(found.values()) / (len(found) * NOISE_S / 60)}


def nothing() -> Iterator[tuple[str, Samples]]:
    """A minute of each sound that holds no word."""
    from training.augment import make_noise

    n = round(NOISE_S * SAMPLE_RATE)
    yield "silence", np.zeros(n, np.float32)
    for kind in NOISES:
        noise = make_noise(kind, n, np.random.default_rng([*kind.encode()]))
        noise /= np.sqrt(np.mean(noise**2))
        for level in LEVELS_DB:
            yield f"{kind} {level} dB", np.clip(noise * np.float32(10 ** (level / 20)), -1, 1)


def recognise(recognizer: Recognizer, samples: Samples) -> str:
    from edge_runtime.judging import recognise as finals

    blocks = measure.blocks(samples, recognizer.chunk_ms)
    return " ".join(final.text for final in finals(recognizer, blocks) if final.text)


def table(results: dict[str, Any]) -> Table:
    percent: Callable[[float], str] = "{:.1%}".format
    rows = [["test set", *CONDITIONS]]
    for name, found in results["sets"].items():
        rows.append([name, *(percent(found[condition]) for condition in CONDITIONS)])
    nothing = results["nothing"]
    loudest = max(nothing["words"], key=nothing["words"].__getitem__)
    rows.append(
        [
            "words per minute of noise and silence",
            f"{nothing['words_per_minute']:.2f}, most in {loudest} ({nothing['words'][loudest]})",
            *[""] * (len(CONDITIONS) - 1),
        ]
    )
    return rows


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
