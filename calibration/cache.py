"""`calibration.cache`: ranges in the text that TensorRT's own calibrators leave behind.

For those who build the *float* graph with TensorRT's INT8 flag and a calibrator, up to TensorRT 10
("implicit quantisation", superseded there, gone in 11).  A calibrator that finds this file returns
it instead of calibrating:

    TRT-8602-EntropyCalibration2
    layernormalization_49: 3cd8a9f2

The number is the release, the digits are the step of a tensor: its range / 127 as a big-endian
float32.  Tensors without a line stay in float.  Files of Q/DQ pairs (`calibration.qdq`) say more:
which layers, and steps of weights per output.
"""

from __future__ import annotations

import re
import struct

from calibration.graph import FloatGraph
from calibration.ranges import Ranges
from edge_runtime.errors import ConfigError

CACHE_NAME = "calibration.cache"
_GONE = 11  # the first TensorRT without implicit quantisation


def cache(graph: FloatGraph, ranges: Ranges, version: str) -> bytes:
    """The content for a release of TensorRT, such as "8.6.2".

    Raises:
        ConfigError: there is no such cache for this release, or the ranges are of a smoothed graph,
            which is not the one that TensorRT would read.
        BundleError: the ranges are those of another model.
    """
    number = release_number(version)
    scales = ranges.scales(graph)
    if ranges.smooth or ranges.bias:
        raise ConfigError(
            f"{CACHE_NAME} goes with the float model as it is, but these ranges change its norms "
            "or biases: calibrate with --plain"
        )
    quantised = {one.x for one in graph.linears if one.name not in ranges.keep_float}
    lines = [f"TRT-{number}-EntropyCalibration2"]
    for name, scale in scales.items():
        if name in quantised:
            lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return "".join(f"{line}\n" for line in lines).encode()


def release_number(version: str) -> int:
    """As NvInferVersion.h counts: 8.6.2 is 8602, 10.3.0 is 100300.

    Raises ConfigError for what is no release with such a cache.
    """
    found = re.fullmatch(r"(\d{1,2})\.(\d{1,2})(?:\.(\d{1,2}))?(?:\.\d+)?", version)
    if found is None:
        raise ConfigError(f"--cache {version}: a release of TensorRT, such as 8.6.2")
    major, minor, patch = (int(part or 0) for part in found.groups())
    if not 8 <= major < _GONE:
        raise ConfigError(
            f"--cache {version}: TensorRT 8 to 10 read a calibration.cache; for others there are "
            "--targets trt10,trt8"
        )
    return major * (1000 if major < 10 else 10_000) + minor * 100 + patch
