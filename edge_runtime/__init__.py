"""vitconformer's device side: streaming speech recognition without torch.

    from edge_runtime import Recognizer

    recognizer = Recognizer.open("bundles/en-demo")
    stream = recognizer.stream()
    for chunk in chunks:                # float32 samples in [-1, 1] at 16 kHz
        for event in stream.push(chunk):
            print(event.type, event.text)
    for event in stream.finish():
        print(event.type, event.text)

Importing this package costs nothing: the names below are looked up on first use, so the contract
(standard library only) can be imported where numpy and onnxruntime are not installed.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it.
_HOMES = {
    "AudioError": "errors",
    "BackendError": "errors",
    "BeamConfig": "decoding",
    "Bundle": "bundle",
    "BundleError": "errors",
    "ConfigError": "errors",
    "EdgeError": "errors",
    "EndpointConfig": "endpoint",
    "Final": "events",
    "GreedyConfig": "decoding",
    "Partial": "events",
    "Recognizer": "recognizer",
    "Stream": "recognizer",
    "Word": "events",
    "open_backend": "backends",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
