"""What an engine is bound to: this GPU, this TensorRT, this JetPack."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetson.cuda import Cuda

# Release of L4T -> JetPack and the TensorRT that comes with it. docs/jetson.md says what of this
# was verified. Longest prefix wins.
JETPACKS = {
    "35.": ("5.1", "8.5.2"),
    "36.2": ("6.0 DP", "8.6.2"),
    "36.3": ("6.0", "8.6.2"),
    "36.4": ("6.1", "10.3.0"),
    "36.4.3": ("6.2", "10.3.0"),
    "36.4.4": ("6.2.1", "10.3.0"),
    "36.5": ("6.2.2", "10.3.0"),
    "38.2": ("7.0", "10.13"),
    "38.4": ("7.1", "10.13.3"),
    "39.2": ("7.2", "10.16"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything that makes an engine of one machine useless on another."""

    gpu: str
    sm: str
    multiprocessors: int  # modules with the same SM want other tactics
    tensorrt: str
    l4t: str  # "36.4.3", or "" where it is no Jetson

    @property
    def jetpack(self) -> str:
        return jetpack_of(self.l4t)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        where = f"JetPack {self.jetpack} (L4T {self.l4t})" if self.l4t else "no Jetson"
        return f"{self.gpu}, SM {self.sm}, TensorRT {self.tensorrt}, {where}"


def this_machine(cuda: Cuda, trt: Any, root: Path = Path("/")) -> Machine:
    """The one we run on. `root` is where /etc is."""
    device = cuda.device()
    return Machine(
        gpu=device.name,
        sm=device.sm,
        multiprocessors=device.multiprocessors,
        tensorrt=trt.__version__,
        l4t=l4t_release(root),
    )


def l4t_release(root: Path = Path("/")) -> str:
    """Linux for Tegra's release from /etc/nv_tegra_release; "" where there is none."""
    try:
        text = (root / "etc/nv_tegra_release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return parse_l4t(text)


def parse_l4t(text: str) -> str:
    """`# R36 (release), REVISION: 4.3, GCID: …` -> 36.4.3; "" for anything else."""
    found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}".removesuffix(".0") if found else ""


def jetpack_of(l4t: str) -> str:
    """JetPack's version, "" where it is not known."""
    known = [
        p for p in JETPACKS if l4t.startswith(p) and (p[-1] == "." or l4t[len(p) :][:1] in ".")
    ]
    return JETPACKS[max(known, key=len)][0] if l4t and known else ""
