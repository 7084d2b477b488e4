"""The options that every recognising verb shares, and the Recognizer they describe."""

from __future__ import annotations

import argparse
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import ConfigError

if TYPE_CHECKING:
    from edge_runtime.decoding import DecoderConfig
    from edge_runtime.recognizer import Recognizer

BUNDLE_VARIABLE = "VITCONFORMER_BUNDLE"
DEFAULT_BUNDLE = "en-demo"
DEFAULT_BEAM = 24  # as BeamConfig has it, which costs numpy to ask
MAX_THREADS = 256


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--bundle, --precision, --backend, --threads."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--bundle",
        metavar="DIR",
        help=f"model bundle (default: ${BUNDLE_VARIABLE}, else bundles/{DEFAULT_BUNDLE})",
    )
    group.add_argument(
        "--precision",
        metavar="NAME",
        help="which of the bundle's models to run, e.g. float32 (default: INT8 where it is there "
        "and fast)",
    )
    group.add_argument(
        "--backend",
        metavar="NAME",
        help="what runs the model: onnxruntime (default); on a Jetson tensorrt, or jetson, which "
        "goes on with onnxruntime where there is no engine",
    )
    group.add_argument(
        "--threads", type=_threads, metavar="N", help="threads of the engine (default: 1)"
    )


def add_decoding_options(parser: argparse.ArgumentParser, *, several_chunks: bool = False) -> None:
    """Chunk size (or sizes), decoder, n-best and end-pointing."""
    group = parser.add_argument_group("recognition")
    group.add_argument(
        "--chunk-ms",
        type=positives if several_chunks else positive,
        metavar="MS,..." if several_chunks else "MS",
        help="audio per step in ms: less is quicker, more is more accurate "
        f"(default: {'all the bundle has' if several_chunks else 'the bundle decides'})",
    )
    group.add_argument(
        "--beam",
        type=positive,
        metavar="N",
        help="beam search with N hypotheses (default: greedy; "
        f"{DEFAULT_BEAM} where another option needs it)",
    )
    group.add_argument(
        "--lm",
        metavar="FILE",
        help="word language model for the beam search, ARPA or KenLM (default: the bundle's)",
    )
    group.add_argument(
        "--lm-weight",
        type=_finite,
        metavar="W",
        help="weight of the language model, 0 for none (default: 0.5 with --lm, else the bundle's)",
    )
    group.add_argument(
        "--hotword",
        action="append",
        default=[],
        metavar="PHRASE[:BOOST]",
        help="phrase to favour, by BOOST nats per piece (default: 1.5); may be repeated",
    )
    group.add_argument(
        "--hotwords", metavar="FILE", help="file of such phrases, one a line; # starts a comment"
    )
    group.add_argument(
        "--nbest",
        type=positive,
        metavar="N",
        help="list N readings of each final; the search errs more then (default: 1)",
    )
    group.add_argument(
        "--no-endpoint", action="store_true", help="one final per stream: do not cut at pauses"
    )


def open_recognizer(args: argparse.Namespace) -> Recognizer:
    """The Recognizer that the options describe.  Raises EdgeError."""
    from edge_runtime.endpoint import EndpointConfig
    from edge_runtime.recognizer import Recognizer

    bundle = find_bundle(args.bundle)
    return Recognizer.open(
        bundle,
        chunk_ms=args.chunk_ms,
        decoder=_decoder(args, bundle),
        endpoint=None if args.no_endpoint else EndpointConfig(),
        **engine_options(args),
    )


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of precision, backend and threads: the defaults are the engine's to know."""
    names = ("precision", "backend", "threads")
    options = {name: getattr(args, name) for name in names}
    return {name: value for name, value in options.items() if value is not None}


def find_bundle(given: str | None) -> Path:
    """--bundle, else the environment, else the demo: in the checkout, installed, or right here."""
    if name := given or os.environ.get(BUNDLE_VARIABLE):
        return Path(name)
    home = Path(__file__).parents[2]  # the checkout, where there is one
    places = [home, Path(sys.prefix) / "share" / "vitconformer", Path()]
    for place in places:
        if (place / "bundles" / DEFAULT_BUNDLE / "manifest.json").is_file():
            return place / "bundles" / DEFAULT_BUNDLE
    raise ConfigError(f"no model bundle: give --bundle DIR or set {BUNDLE_VARIABLE}")


def positives(text: str) -> list[int]:
    """An argparse type: such numbers, separated by commas."""
    return [positive(part) for part in text.split(",")]


def positive(text: str) -> int:
    """An argparse type: a whole number from 1."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _threads(text: str) -> int:
    """An argparse type: the engine would try to start any number, and hang in it."""
    value = positive(text)
    if value > MAX_THREADS:
        raise ValueError
    return value


def _finite(text: str) -> float:
    """An argparse type: a number that is none of NaN and infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


# argparse: "invalid whole number from 1 value: '0'"
positive.__name__ = "whole number from 1"
positives.__name__ = "list of whole numbers from 1"
_threads.__name__ = f"whole number from 1 to {MAX_THREADS}"
_finite.__name__ = "number"


def read_hotwords(path: str) -> list[str]:
    """The phrases of a file, one a line; # starts a comment.  Raises ConfigError."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()  # Windows marks UTF-8
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"hotword file {path}: {error}") from error
    return [text for line in lines if (text := line.partition("#")[0].strip())]


def _decoder(args: argparse.Namespace, bundle: Path) -> DecoderConfig:
    """Greedy, unless an option needs a beam."""
    from edge_runtime.decoding import BeamConfig, GreedyConfig

    hotwords = [*args.hotword, *(read_hotwords(args.hotwords) if args.hotwords else [])]
    nbest = args.nbest or 1
    if not (args.beam or hotwords or args.lm or args.lm_weight or nbest > 1):
        return GreedyConfig()
    beam = args.beam or max(DEFAULT_BEAM, nbest)
    config = BeamConfig(beam=beam, hotwords=tuple(hotwords), nbest=nbest, lm=args.lm)
    if args.lm is None and args.lm_weight != 0:
        config = replace(config, **_bundled_lm(bundle, wanted=args.lm_weight is not None))
    if args.lm_weight is not None:
        config = replace(config, lm_weight=args.lm_weight)
    return config


def _bundled_lm(path: Path, *, wanted: bool) -> dict[str, Any]:
    """The bundle's language model as fields of a BeamConfig; `wanted`: it was asked for."""
    from edge_runtime.bundle import Bundle

    settings = Bundle.open(path).decoding()
    if not settings and wanted:
        raise ConfigError(f"{path} has no language model: give one with --lm FILE")
    return settings
