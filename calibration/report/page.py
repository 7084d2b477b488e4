"""A report as Markdown with pictures beside it: `report.md` in a directory of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.compare import Difference
from calibration.methods import METHODS
from calibration.ranges import Ranges
from calibration.report import plots
from calibration.report.layers import Layers
from calibration.report.recognition import Comparison, Pair
from edge_runtime.files import write_atomically
from edge_runtime.metrics import align

REPORT_NAME = "report.md"
_WORST_LAYERS = 12
_SHOWN_TENSORS = 6
_SHOWN_PAIRS = 12
_MOST_SPEAKERS = 24
_ENOUGH_WORDS = 100  # for a calibration error that is not mostly chance

Table = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that a report tells."""

    title: str  # name and version of the bundle
    precision: str  # of the INT8 model that is compared: "int8-x86"
    sizes: Mapping[str, int]  # file name -> bytes
    float32_bytes: int  # of the float graph with float32 weights
    ranges: Ranges
    differences: Mapping[str, Difference]  # precision -> what quantisation changed
    layers: Layers
    chunks: Mapping[int, Comparison]  # ms -> both models over the same recordings; may be empty
    default_chunk_ms: int
    source: str  # where those recordings are from
    processor: str


def write_report(folder: Path, facts: Facts) -> Path:
    """Writes the page and its pictures; -> the page."""
    pictures: dict[str, bytes] = {}

    def picture(name: str, text: str, content: bytes) -> str:
        pictures[f"{name}.png"] = content
        return f"![{text}]({name}.png)"

    parts = [
        f"# INT8 report: {facts.title}",
        *_short(facts),
        *_recognition(facts, picture),
        *_ranges(facts, picture),
        *_layers(facts, picture),
        *_files(facts),
    ]
    for name, content in pictures.items():
        write_atomically(folder / name, content)
    write_atomically(folder / REPORT_NAME, ("\n\n".join(parts) + "\n").encode())
    return folder / REPORT_NAME


Picture = Callable[[str, str, bytes], str]


def _short(facts: Facts) -> Iterable[str]:
    rows = []
    file = f"encoder.{facts.precision}.onnx"
    ratio = facts.sizes[file] / facts.float32_bytes
    rows.append(["size", f"{_mb(facts.sizes[file])}, {ratio:.3f} of float32"])
    if facts.chunks:
        found = facts.chunks[facts.default_chunk_ms]
        change = found.difference
        rows += [
            ["word error rate", f"{found.before.wer:.2%} → {found.after.wer:.2%}"],
            ["difference", f"{_points(change.value)} points, 95 % within "
             f"{_points(change.low)} to {_points(change.high)}"],
            ["confidence, ECE", f"{found.before.ece:.3f} → {found.after.ece:.3f}"],
            ["processor time", f"{found.after.cpu_s / max(found.before.cpu_s, 1e-9):.2f} of float"],
        ]  # fmt: skip
    if cost := facts.differences.get(facts.precision):
        rows.append(["tokens changed", f"{cost.tokens:.2%}"])
    rows.append(["ranges by", facts.ranges.method])
    kept = facts.ranges.keep_float
    rows.append(["layers that stay float", str(len(kept)) if kept else "none"])
    yield _table([["in short", f"float → {facts.precision}"], *rows])


def _recognition(facts: Facts, picture: Picture) -> Iterable[str]:
    yield "## Recognition"
    if not facts.chunks:
        yield "No file that this machine runs, or no recordings with texts: nothing was compared."
        return
    found = facts.chunks[facts.default_chunk_ms]
    seconds = sum(pair.seconds for pair in found.pairs)
    yield (
        f"{len(found.pairs)} recordings, {seconds / 60:.1f} minutes, {found.words} words, "
        f"{facts.source}. Greedy decoding; `→` is from float to INT8. Times are one pass each on "
        f"{facts.processor}, and a hint."
    )
    rows = [["chunk", "WER, %", "difference, points (95 %)", "CER, %", "ECE", "CPU s / audio s"]]
    for chunk_ms, one in facts.chunks.items():
        change, length = one.difference, max(sum(pair.seconds for pair in one.pairs), 1e-9)
        rows.append(
            [
                f"{chunk_ms} ms",
                f"{100 * one.before.wer:.2f} → {100 * one.after.wer:.2f}",
                f"{_points(change.value)} ({_points(change.low)} to {_points(change.high)})",
                f"{100 * one.before.cer:.2f} → {100 * one.after.cer:.2f}",
                f"{one.before.ece:.3f} → {one.after.ece:.3f}",
                f"{one.before.cpu_s / length:.4f} → {one.after.cpu_s / length:.4f}",
            ]
        )
    yield _table(rows)
    if found.before.confidences and found.after.confidences:
        yield picture("confidence", "Share of right words by confidence", plots.reliability(found))

    speakers = found.by_speaker(_MOST_SPEAKERS)
    if len(speakers) > 1:
        yield f"### Speakers, at {facts.default_chunk_ms} ms"
        yield picture("speakers", "Word error rates of speakers", plots.speakers(speakers))
        rows = [["speaker", "recordings", "words", "WER, %", "ECE"]]
        for name, one in speakers.items():
            enough = one.words >= _ENOUGH_WORDS
            rows.append(
                [
                    _plain(name),
                    str(len(one.pairs)),
                    str(one.words),
                    f"{100 * one.before.wer:.1f} → {100 * one.after.wer:.1f}",
                    f"{one.before.ece:.3f} → {one.after.ece:.3f}" if enough else "–",
                ]
            )
        yield _table(rows)
        yield f"No ECE for fewer than {_ENOUGH_WORDS} words: it would be mostly chance."

    turned = found.turned(_SHOWN_PAIRS)
    same = sum(pair.before.text == pair.after.text for pair in found.pairs)
    yield f"### Side by side, at {facts.default_chunk_ms} ms"
    yield (
        f"{same} of {len(found.pairs)} recordings are heard the same. Of the others, those where "
        "INT8 errs most more than float come first; words in bold are what the other did not hear."
    )
    if turned:
        yield "\n\n".join(_side_by_side(pair) for pair in turned)


def _side_by_side(pair: Pair) -> str:
    before, after = _marked(pair.before.text, pair.after.text)
    name = f"{pair.utterance.audio_filepath.name}, {pair.utterance.speaker or 'unknown'}"
    return _table(
        [
            [_plain(name), "errors", "text"],
            ["said", "", _plain(pair.utterance.text)],
            ["float", str(pair.before.words.errors), before],
            ["INT8", str(pair.after.words.errors), after],
        ]
    )


def _marked(one: str, other: str) -> tuple[str, str]:
    """Both texts, with words that are not aligned to the same word in bold."""
    pairs = align(one.split(), other.split()).pairs
    sides = []
    for side in (0, 1):
        words = [(pair[side], pair[0] != pair[1]) for pair in pairs]
        sides.append(
            " ".join(f"**{_plain(w)}**" if new else _plain(w) for w, new in words if w is not None)
        )
    return sides[0] or "–", sides[1] or "–"


def _ranges(facts: Facts, picture: Picture) -> Iterable[str]:
    ranges = facts.ranges
    yield "## Ranges"
    costs = ranges.measured.get("methods")
    if costs:
        yield picture("methods", "Divergence by method", plots.methods(costs, ranges.method))
    tried = []
    for name, what in (("smooth", "SmoothQuant"), ("bias", "bias correction")):
        if found := ranges.measured.get(name):
            tried.append(
                [
                    what,
                    found.get("best", "–"),
                    f"{found['divergence']['before']:g} → {found['divergence']['after']:g}",
                    f"{found['gain']:+.2g} ± {found['standard_error'] or math.nan:.2g}",
                    "yes" if found["kept"] else "no",
                ]
            )
    if tried:
        head = ["tried", "best", "divergence", "gain where it was not chosen", "used"]
        yield _table([head, *tried])
        yield (
            "Used only where the gain is more than twice its standard error. Methods were compared "
            "before."
        )
    worst = _distinct(facts.layers)
    yield (
        "What enters the layers that INT8 hurts most, over all calibration streams. What lies "
        "right of the range in use is cut to it."
    )
    shown = [(label, ranges.tensors[x], facts.layers.histograms[x]) for x, label in worst]
    if shown:
        drawing = plots.histograms(shown, ranges.method, tuple(METHODS))
        yield picture("histograms", "Magnitudes and ranges", drawing)


def _distinct(layers: Layers) -> list[tuple[str, str]]:
    """The tensors before the worst layers, each once, with the label of a layer that reads it."""
    found: dict[str, str] = {}
    for layer in layers.worst(len(layers.layers)):
        found.setdefault(layer.x, layer.label)
    return list(found.items())[:_SHOWN_TENSORS]


def _layers(facts: Facts, picture: Picture) -> Iterable[str]:
    yield "## Layers"
    yield (
        "Each alone, on what enters it in the float model, so that an error shows where it is "
        "made. Blue: stays float."
    )
    yield picture("layers", "Signal to noise of every layer", plots.layers(facts.layers))
    rows = [["the worst", "products, dB", "inputs, dB", "weights, dB", "inputs cut"]]
    for layer in facts.layers.worst(_WORST_LAYERS):
        rows.append(
            [
                f"`{layer.label}`",
                f"{layer.output_db:.1f}",
                f"{layer.activations_db:.1f}",
                f"{layer.weights_db:.1f}",
                f"{layer.cut:.2g}" if layer.cut else "0",
            ]
        )
    yield _table(rows)


def _files(facts: Facts) -> Iterable[str]:
    yield "## Files"
    rows = [["file", "size", "of float32 weights", "tokens changed", "signal to noise"]]
    for name, size in facts.sizes.items():
        cost = facts.differences.get(name.removeprefix("encoder.").removesuffix(".onnx"))
        rows.append(
            [
                f"`{name}`",
                _mb(size),
                f"{size / facts.float32_bytes:.3f}",
                f"{cost.tokens:.2%}" if cost else "–",
                f"{cost.snr_db:.1f} dB" if cost else "–",
            ]
        )
    yield _table(rows)
    ranges = facts.ranges
    tools = ", ".join(f"{name} {version}" for name, version in ranges.tools.items())
    yield (
        f"Derived from the model with SHA-256 `{ranges.model_sha256[:16]}…` and {ranges.chunks} "
        f"windows of the manifest `{ranges.manifest_sha256[:16]}…`, by {tools}."
    )


def _table(rows: Table) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: str) -> str:
    """Text in a cell: nothing in it is Markdown."""
    escaped = "".join(f"\\{c}" if c in "\\`*_{}[]<>#|~" else c for c in text)
    return " ".join(escaped.split())


def _points(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:+.2f}"


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f} MB"
