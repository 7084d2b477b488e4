"""Word error rate: per test set, chunk size and decoder, with pocketsphinx on the same files.

Errors are pooled over a set: substitutions, deletions and insertions per reference word, over
lower-case words without punctuation. Chunked rates are the recogniser's, as devices run it:
features, endpointing and tail flush included, all finals of a file joined; "+ LM" is the beam
search with the bundle's language model. `offline` is the checkpoint in torch seeing the whole
utterance at once, greedy. pocketsphinx is the release in the record with the English model and
settings it brings, given each file whole, its text reduced to a-z, apostrophe and space; its
recognition runs once per file and is remembered.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import Samples, Table
from edge_runtime.bundle import Bundle
from edge_runtime.commands.options import DEFAULT_BEAM

if TYPE_CHECKING:
    from edge_runtime.manifest import Utterance
    from training.evaluate import Report

CHUNKS_MS = (80, 160, 320, 640)


def configure(parser: argparse.ArgumentParser) -> None:
    measure.add_manifest_option(parser, default="default: the sample clips")
    measure.add_checkpoint_option(parser)
    parser.add_argument("--limit", type=int, help="only the first N utterances of each set")
    parser.add_argument(
        "--beam", type=int, default=DEFAULT_BEAM,
        help=f"hypotheses, 0 for none (default: {DEFAULT_BEAM})",
    )  # fmt: skip
    parser.add_argument(
        "--pocketsphinx",
        nargs="*",
        metavar="NAME",
        help="test sets that pocketsphinx hears too, one after the other (default: all)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    results = {}
    for name, utterances in measure.manifests(args.manifest, args.limit).items():
        systems = {}
        beam = f"beam {args.beam}" + (" + LM" if Bundle.open(args.bundle).decoding() else "")
        for chunk_ms in CHUNKS_MS:
            for decoder, hypotheses in (("greedy", 0), (beam, args.beam)):
                if decoder == "greedy" or hypotheses:
                    measure.say(f"{name}: {chunk_ms} ms, {decoder}")
                    systems[f"{chunk_ms} ms, {decoder}"] = measured(
                        args.bundle, utterances, chunk_ms, hypotheses
                    )
        if args.checkpoint.is_file():
            measure.say(f"{name}: offline")
            systems["offline, greedy"] = summary(offline(args.checkpoint, args.bundle, utterances))
        else:
            measure.say(f"{name}: no {args.checkpoint}, so no offline rates")
        if args.pocketsphinx is None or name in args.pocketsphinx:
            measure.say(f"{name}: pocketsphinx")
            systems["pocketsphinx"] = pocketsphinx(utterances)
        results[name] = {
            "utterances": len(utterances),
            "audio_s": sum(u.duration for u in utterances),
            "systems": systems,
        }
    return results


def measured(bundle: Path, utterances: Sequence[Utterance], chunk_ms: int, beam: int) -> Any:
    from training.evaluate import evaluate_bundle

    start = time.process_time()
    report = evaluate_bundle(bundle, utterances, chunk_ms, beam=beam)
    return {**summary(report), "cpu_s": time.process_time() - start}


def summary(report: Report) -> dict[str, Any]:
    counts = report.words
    return {
        "wer": counts.rate,
        "cer": report.characters.rate,
        "words": counts.reference_length,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "speakers": {name: found.rate for name, found in report.by_speaker().items()},
    }


def offline(checkpoint: Path, bundle: Path, utterances: Sequence[Utterance]) -> Report:
    """Whole utterances at once; the bundle says what its tokens spell."""
    from training.checkpoint import load_encoder
    from training.evaluate import Report, Result, decode_features, greedy_ids, load_features

    vocabulary = Bundle.open(bundle).vocabulary()
    encoder, _ = load_encoder(checkpoint)
    texts = [""] * len(utterances)
    for index, log_probs in decode_features(encoder, load_features(utterances), None):
        texts[index] = vocabulary.detokenise(greedy_ids(log_probs))
    return Report(None, tuple(Result(u, t) for u, t in zip(utterances, texts, strict=True)))


# --- pocketsphinx --------------------------------------------------------------------------------


def pocketsphinx(utterances: Sequence[Utterance]) -> dict[str, Any]:
    from training.evaluate import Report, Result

    try:
        release = version("pocketsphinx")
    except ImportError:
        raise SystemExit("pip install pocketsphinx, or leave it out with --pocketsphinx") from None
    path = measure.CACHE / f"pocketsphinx-{release}.json"
    cache = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    names = [hashlib.sha256(u.audio_filepath.read_bytes()).hexdigest() for u in utterances]
    if new := [i for i, name in enumerate(names) if name not in cache]:
        for i, found in zip(new, hear([utterances[i] for i in new]), strict=True):
            cache[names[i]] = found
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(cache, indent=0), "utf-8")
    results = (Result(u, cache[name]["text"]) for u, name in zip(utterances, names, strict=True))
    return {
        **summary(Report(None, tuple(results))),
        "cpu_s": sum(cache[name]["cpu_s"] for name in names),
    }


def hear(utterances: Sequence[Utterance]) -> list[dict[str, Any]]:
    from pocketsphinx import Decoder

    decoder = Decoder(loglevel="FATAL")
    found = []
    for utterance in utterances:
        pcm = to_pcm(measure.load(utterance.audio_filepath))
        start = time.process_time()
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        found.append(
            {
                "text": normalise(hypothesis.hypstr if hypothesis else ""),
                "cpu_s": time.process_time() - start,
            }
        )
    return found


def to_pcm(samples: Samples) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def normalise(text: str) -> str:
    """Lower-case words of a-z and apostrophes."""
    return " ".join(re.sub(r"[^a-z' ]+", " ", text.lower()).split())


def table(results: dict[str, Any]) -> Table:
    names = list(results)
    rows = [["WER", *(f"{n} ({results[n]['utterances']} utterances)" for n in names)]]
    systems = dict.fromkeys(s for found in results.values() for s in found["systems"])
    for system in systems:
        cells = (results[name]["systems"].get(system) for name in names)
        rows.append([system, *(f"{cell['wer']:.1%}" if cell else "" for cell in cells)])
    return rows


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
