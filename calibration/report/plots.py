"""The pictures of a report, as PNG.

Drawn by matplotlib's Agg, which needs no display, on figures of their own instead of `pyplot`'s
global one: a report is made on servers, by processes that may do other things.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from calibration.histogram import BINS, Histogram
from calibration.ranges import TensorRange
from calibration.report.layers import Layer, Layers
from calibration.report.recognition import Comparison, Side

BEFORE, AFTER, QUIET = "#4878a8", "#e07b39", "#9aa0a6"
GOOD, BAD = "#6a9f58", "#b3261e"
_DPI = 110
_STYLES = ("-", "--", ":", "-.", (0, (1, 3)), (0, (5, 4)))
_RELIABILITY_BINS = 10
_MOST_TICKS = 30
_NAMED = 4  # layers


def layers(found: Layers) -> bytes:
    """Signal to noise of every layer's products, and how much of its inputs is cut."""
    figure, (top, bottom) = _figure(11, 6.4, 2, height_ratios=(3, 1), sharex=True)
    everything = found.layers
    at = np.arange(len(everything))
    for values, colour, marker, name in (
        ([one.weights_db for one in everything], GOOD, "^", "its weights alone"),
        ([one.activations_db for one in everything], QUIET, "s", "its inputs alone"),
        ([one.output_db for one in everything], AFTER, "o", "its products"),
    ):
        top.plot(at, values, marker, color=colour, markersize=4, label=name)
    products = [one.output_db for one in everything]
    floor = min(*products, *(one.activations_db for one in everything)) - 1
    top.vlines(at, floor, products, color=AFTER, linewidth=0.8, alpha=0.5)
    for one in at[[one.in_float for one in everything]]:
        top.axvspan(one - 0.5, one + 0.5, color=BEFORE, alpha=0.15)
    for number, one in enumerate(found.worst(_NAMED), start=1):
        place = (everything.index(one), one.output_db)
        top.annotate(
            str(number), place, xytext=(5, -4), textcoords="offset points", fontsize=9, color=BAD
        )
    named = (
        f"{number} {_plain(one.label)}" for number, one in enumerate(found.worst(_NAMED), start=1)
    )
    top.set_xlabel("   ".join(("the worst:", *named)), color=BAD, fontsize=9)
    top.set_ylabel("signal to noise, dB")
    top.margins(y=0.15)
    top.set_ylim(bottom=floor)
    top.legend(loc="upper center", ncols=3, frameon=False, fontsize=9)
    top.set_title("Every linear layer in INT8, in the order in which they run: higher is better")
    bottom.bar(at, [100 * one.cut for one in everything], color=AFTER)
    bottom.set_ylabel("inputs cut, %")
    starts = _beginnings(everything)
    bottom.set_xticks(
        list(starts), map(_plain, starts.values()), rotation=60, ha="right", fontsize=8
    )
    for axes in (top, bottom):
        axes.set_xlim(-1, len(everything))
        axes.grid(axis="y", alpha=0.3)
    return _png(figure)


def _beginnings(found: Sequence[Layer]) -> dict[int, str]:
    """Where a block begins, by the first parts of its label: "blocks.3"."""
    starts: dict[int, str] = {}
    for number, layer in enumerate(found):
        block = ".".join(layer.label.split(".")[:2])
        if not starts or block != list(starts.values())[-1]:
            starts[number] = block
    kept = list(starts)[:: -(-len(starts) // _MOST_TICKS)]
    return {number: starts[number] for number in kept}


def histograms(
    found: Sequence[tuple[str, TensorRange, Histogram]], method: str, methods: Sequence[str]
) -> bytes:
    """Magnitudes of some tensors, with the range that each method would choose."""
    rows = -(-len(found) // 2)
    figure, every = _figure(11, 2.7 * rows + 0.6, rows, 2)
    for axes, (label, tensor, histogram) in zip(every, found, strict=False):
        step = max(1, BINS // 256)  # joined: one column is about two pixels wide
        counts = histogram.counts.reshape(-1, step).sum(axis=1)
        width = histogram.limit * step / BINS
        edges = np.arange(len(counts) + 1) * width
        share = counts / max(1, counts.sum())
        axes.stairs(np.where(share > 0, share, np.nan), edges, fill=True, color=QUIET, alpha=0.6)
        for style, name in zip(_STYLES, methods, strict=False):
            chosen = name == method
            axes.axvline(
                tensor.candidates[name], linestyle="-" if chosen else style,
                color=AFTER if chosen else BEFORE, linewidth=2.2 if chosen else 1.1,
                label=f"{name} (used)" if chosen else name, zorder=3 if chosen else 2,
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_xlim(0, 1.04 * max(tensor.candidates.values()))
        axes.set_title(f"{_plain(label)}: {100 * tensor.cut[method]:.2g} % cut", fontsize=10)
        axes.set_xlabel("magnitude of what enters", fontsize=9)
        axes.set_ylabel("share of values", fontsize=9)
    for axes in every[len(found) :]:
        axes.set_visible(False)
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(methods), frameon=False)
    return _png(figure)


def methods(costs: Mapping[str, Mapping[str, float]], used: str) -> bytes:
    """What each method costs, on a logarithmic scale."""
    figure, (axes,) = _figure(7.5, 0.45 * len(costs) + 1.2)
    order = sorted(costs, key=lambda name: costs[name]["divergence"], reverse=True)
    values = [costs[name]["divergence"] for name in order]
    colours = [AFTER if name == used else QUIET for name in order]
    bars = axes.barh(order, values, color=colours)
    texts = [f" {costs[name]['divergence']:.4f}, {costs[name]['tokens']:.1%}" for name in order]
    axes.bar_label(bars, texts, fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2, max(values) * 4)
    axes.set_xlabel("divergence from the float model, nats per frame; and tokens changed")
    axes.set_title("Methods of choosing ranges: shorter is better")
    return _png(figure)


def reliability(found: Comparison) -> bytes:
    """Share of right words against confidence, in bins of as many words each."""
    figure, (axes,) = _figure(5.6, 5.2)
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--", label="ideal")
    for side, colour, marker, name in (
        (found.before, BEFORE, "o", "float"),
        (found.after, AFTER, "s", "INT8"),
    ):
        x, y = _bins(side)
        label = f"{name}: ECE {side.ece:.3f}"
        axes.plot(x, y, marker=marker, markersize=5, color=colour, label=label)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.set_xlabel("confidence of words")
    axes.set_ylabel("share of them that is right")
    axes.legend(loc="upper left", frameon=False)
    axes.grid(alpha=0.3)
    axes.set_title("What confidence is worth: on the line it is a probability", fontsize=11)
    return _png(figure)


def _bins(side: Side) -> tuple[list[float], list[float]]:
    confidences, right = np.array(side.confidences), np.array(side.right, float)
    order = np.argsort(confidences, kind="stable")
    parts = [part for part in np.array_split(order, _RELIABILITY_BINS) if len(part)]
    return (
        [float(confidences[part].mean()) for part in parts],
        [float(right[part].mean()) for part in parts],
    )


def speakers(found: Mapping[str, Comparison]) -> bytes:
    """Word error rates, float and INT8 joined by a line, in the order of float's."""
    names = sorted(found, key=lambda name: (found[name].before.wer, name))
    figure, (axes,) = _figure(8, 0.27 * len(names) + 1.4)
    at = np.arange(len(names))
    before = [100 * found[name].before.wer for name in names]
    after = [100 * found[name].after.wer for name in names]
    worse = [BAD if b > a else GOOD for a, b in zip(before, after, strict=True)]
    axes.hlines(at, before, after, color=worse, linewidth=2, zorder=1)
    axes.scatter(  # a ring, so that INT8 shows where both are equal
        before, at, s=80, facecolors="none", edgecolors=BEFORE, linewidths=1.8, label="float",
        zorder=3,
    )  # fmt: skip
    axes.scatter(after, at, color=AFTER, s=24, marker="s", label="INT8", zorder=2)
    labels = [f"{_plain(name)} ({found[name].words} words)" for name in names]
    axes.set_yticks(at, labels, fontsize=8)
    axes.set_xlabel("word error rate, %")
    axes.set_ylim(-0.8, len(names) - 0.2)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    axes.set_title("Speakers, those with the most words", fontsize=11)
    return _png(figure)


def _plain(text: str) -> str:
    """Text in which a dollar is a dollar, and begins no formula."""
    return text.replace("$", r"\$")


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    every = list(figure.subplots(rows, columns, squeeze=False, **options).ravel())
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, every


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():  # a name in a script that the font lacks is drawn as a box
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    return content.getvalue()
