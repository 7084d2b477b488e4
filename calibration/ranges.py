"""`ranges.json`: what a calibration found, and all that INT8 files are derived from.

    {
      "schema_version": 2,
      "model_sha256": "...", "manifest_sha256": "...", "chunks": 1003,
      "tools": {"onnxruntime": "..."},
      "method": "mse",                          of the candidates, what is used
      "keep_float": ["blocks.0.ffn1.up"],       linear layers that are not quantised
      "smooth": {"x": "0 -1 2 ..."},            `calibration.smooth`: powers of two per channel
      "bias": {"blocks.0.ffn1.up": "1e-4 ..."}, `calibration.bias`: taken from a layer's bias
      "tensors": {"x": {"low": -3.1, "high": 4.0,
                        "candidates": {"max": 4.0, "mse": 3.2, ...},
                        "cut": {"max": 0.0, "mse": 2e-5, ...}}},
      "measured": {...}                         what each method cost (`calibration.compare`)
    }

`smooth` and `bias` are empty unless they help; version 1 did not know them.  Ranges are of the
graph after smoothing.  Scales of weights are not in it: they follow from the weights, one for each
output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from calibration.graph import FloatGraph
from calibration.methods import LEVELS, METHODS
from calibration.observe import Observations
from edge_runtime.errors import BundleError, BundleIncompatible
from edge_runtime.files import write_atomically

SCHEMA_VERSION = 2
_READ = (1, 2)
_REMEDY = "calibrate again"
T = TypeVar("T", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRange:
    """What was seen of a tensor of activations."""

    low: float
    high: float
    candidates: Mapping[str, float]  # method -> magnitude that becomes 127
    cut: Mapping[str, float]  # method -> share of the values beyond it

    def scale(self, method: str) -> float:
        """Size of a step; 1 for a tensor that was never anything but zero."""
        return self.candidates[method] / LEVELS or 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """The content of `ranges.json`."""

    model_sha256: str
    manifest_sha256: str
    chunks: int
    method: str
    tensors: Mapping[str, TensorRange]
    keep_float: tuple[str, ...] = ()
    smooth: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bias: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, graph: FloatGraph, seen: Observations, *, manifest_sha256: str, tools: dict[str, str]
    ) -> Ranges:
        """All candidates of everything observed; the method is the first until one is chosen."""
        tensors = {}
        for name, histogram in seen.histograms.items():
            found = {method: _rounded(find(histogram)) for method, find in METHODS.items()}
            tensors[name] = TensorRange(
                low=_rounded(histogram.low),
                high=_rounded(histogram.high),
                candidates=found,
                cut={method: _rounded(histogram.beyond(limit)) for method, limit in found.items()},
            )
        return cls(
            model_sha256=graph.sha256,
            manifest_sha256=manifest_sha256,
            chunks=seen.chunks,
            method=next(iter(METHODS)),
            tensors=tensors,
            tools=tools,
        )

    def scales(self, graph: FloatGraph) -> dict[str, float]:
        """Step of every tensor that enters a linear layer.  Raises BundleError on another model."""
        if self.model_sha256 != graph.sha256:
            raise BundleError(
                "are those of another model",
                file=graph.file,
                field="ranges",
                expected=f"SHA-256 {self.model_sha256[:12]}…, not {graph.sha256[:12]}…",
                remedy=_REMEDY,
            )
        return {name: self.tensors[name].scale(self.method) for name in graph.activations}

    def to_json(self) -> str:
        """The same text for the same ranges."""
        fields = {
            "schema_version": SCHEMA_VERSION,
            "model_sha256": self.model_sha256,
            "manifest_sha256": self.manifest_sha256,
            "chunks": self.chunks,
            "tools": dict(self.tools),
            "method": self.method,
            "keep_float": list(self.keep_float),
            "smooth": {name: " ".join(map(str, powers)) for name, powers in self.smooth.items()},
            "bias": {name: " ".join(map(repr, shift)) for name, shift in self.bias.items()},
            "tensors": {
                name: {
                    "low": tensor.low,
                    "high": tensor.high,
                    "candidates": dict(tensor.candidates),
                    "cut": dict(tensor.cut),
                }
                for name, tensor in self.tensors.items()
            },
            "measured": dict(self.measured),
        }
        return json.dumps(fields, indent=1, allow_nan=False) + "\n"

    def write(self, path: Path) -> None:
        write_atomically(path, self.to_json().encode())

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """Raises BundleError naming file and field."""
        try:
            fields = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise BundleError(f"cannot be read: {error.strerror}", file=str(path)) from error
        except ValueError as error:
            raise BundleError(f"is not JSON: {error}", file=str(path), remedy=_REMEDY) from error
        version = fields.get("schema_version") if isinstance(fields, dict) else None
        if version not in _READ or isinstance(version, bool):
            raise BundleIncompatible(
                f"is {version!r}",
                file=str(path),
                field="schema_version",
                expected=" or ".join(map(str, _READ)),
                remedy=_REMEDY,
            )
        name = ""
        try:
            tensors = {}
            for name, tensor in fields["tensors"].items():
                candidates = {m: float(tensor["candidates"][m]) for m in METHODS}
                if not all(0 <= limit < float("inf") for limit in candidates.values()):
                    raise ValueError("a range is negative or not finite")
                tensors[name] = TensorRange(
                    low=float(tensor["low"]),
                    high=float(tensor["high"]),
                    candidates=candidates,
                    cut={m: float(tensor["cut"][m]) for m in METHODS},
                )
            name = ""
            if fields["method"] not in METHODS:
                raise ValueError(f"method: one of {', '.join(METHODS)}")
            return cls(
                model_sha256=str(fields["model_sha256"]),
                manifest_sha256=str(fields["manifest_sha256"]),
                chunks=int(fields["chunks"]),
                method=fields["method"],
                tensors=tensors,
                keep_float=tuple(map(str, fields["keep_float"])),
                smooth=_vectors(fields.get("smooth", {}), int, 64),
                bias=_vectors(fields.get("bias", {}), float, 1e6),
                tools=dict(fields["tools"]),
                measured=dict(fields["measured"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(
                f"is malformed ({type(error).__name__}: {error})",
                file=str(path),
                field=f"tensors[{name!r}]" if name else None,
                remedy=_REMEDY,
            ) from error


def _vectors(fields: Any, kind: Callable[[str], T], most: float) -> dict[str, tuple[T, ...]]:
    """Numbers that are written in one text for every name."""
    found = {name: tuple(map(kind, text.split())) for name, text in fields.items()}
    if not all(abs(number) <= most for numbers in found.values() for number in numbers):
        raise ValueError("smooth or bias: a number is too great")
    return found


def _rounded(value: float) -> float:
    """Six digits: a hundredth of a step is a thousand times more, and files stay readable."""
    return float(f"{value:.6g}")
