"""Which of a bundle's models runs on this processor.

INT8 is much faster where the processor multiplies eight-bit numbers into 32-bit sums in one
instruction: VNNI on x86-64, the dot-product extension on ARM64.  Without VNNI, onnxruntime's fast
kernels for x86 add pairs of products in 16 bits, which overflow; the backend takes others, which
are right and still faster than float.  Weights of seven bits cannot overflow and are faster still.

Measuring the range of an activation at every step is one operator with the product; a range known
beforehand takes two.  For models whose steps are short the first is faster, and it is more exact.
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

AUTO = "auto"
FLOAT = "float32"
_VNNI = frozenset(("avx512_vnni", "avx_vnni"))


@dataclass(frozen=True, slots=True)
class Processor:
    """What matters of a processor."""

    machine: str  # as `uname -m` says it
    features: frozenset[str]  # as Linux names them

    @property
    def overflows(self) -> bool:
        """Whether onnxruntime's fast products of bytes overflow here."""
        return self.machine in ("x86_64", "AMD64") and not self.features & _VNNI

    @property
    def int8(self) -> tuple[str, ...]:
        """The INT8 models that are fast here, best first."""
        if self.machine in ("x86_64", "AMD64") and self.features & _VNNI:
            return ("int8-dynamic", "int8-x86")
        if self.overflows and "avx2" in self.features:
            return ("int8-dynamic7", "int8-dynamic")
        if self.machine in ("aarch64", "arm64") and "asimddp" in self.features:
            return ("int8-dynamic", "int8-arm64")
        return ()


def this_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """The one we run on; without features where the system does not tell them."""
    try:
        for line in cpuinfo.read_text(encoding="ascii", errors="replace").splitlines():
            name, _, features = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return Processor(platform.machine(), frozenset(features.split()))
    except OSError:
        pass
    return Processor(platform.machine(), frozenset())


def choose(available: Collection[str], processor: Processor) -> tuple[str, str]:
    """One of `available`, and why, for people. Not verified to be there: `Bundle.model` is."""
    fast = processor.int8
    for precision in fast:
        if precision in available:
            return precision, "INT8, which is fast on this processor"
    if FLOAT not in available:
        return next(iter(available)), "the bundle has no float model"
    if not any(name.startswith("int8") for name in available):
        return FLOAT, "the only one in the bundle"
    if fast:
        return FLOAT, f"the bundle has no {' or '.join(fast)}"
    return FLOAT, "this processor has no fast INT8 instructions"
