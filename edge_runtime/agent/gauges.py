"""Numbers about the device: memory, temperatures, disk, and whatever others know.

A provider is a function that returns numbers by name, registered as an entry point in
`vitconformer.gauges`. One that fails is left out.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path

log = logging.getLogger("edge_runtime.agent")

GROUP = "vitconformer.gauges"
_PAGE = os.sysconf("SC_PAGE_SIZE")
Provider = Callable[[], Mapping[str, float]]


def providers() -> dict[str, Provider]:
    """Those that are installed and can be loaded."""
    found: dict[str, Provider] = {}
    for point in entry_points(group=GROUP):
        try:
            found[point.name] = point.load()
        except Exception as error:  # somebody else's
            log.warning("gauges of %s: cannot be loaded: %s", point.name, error)
    return found


def read_gauges(
    state: Path, others: Mapping[str, Provider], root: Path = Path("/")
) -> dict[str, float]:
    """What there is; what the system does not have is left out."""
    found: dict[str, float] = {}
    if (memory := memory_bytes(root)) is not None:
        found["memory_bytes"] = memory
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name = _name(_text(zone / "type").removesuffix("-thermal"))
        try:
            celsius = int(_text(zone / "temp")) / 1000
        except ValueError:
            continue
        if name and celsius > -200:  # a sensor without power says -256
            found[f"temperature_{name}_c"] = celsius
    try:
        found["load_1m"] = os.getloadavg()[0]
        found["disk_free_bytes"] = float(shutil.disk_usage(state).free)
    except OSError:
        pass
    for name, provider in others.items():
        try:
            found |= {_name(key): float(value) for key, value in provider().items()}
        except Exception as error:
            log.debug("gauges of %s: %s", name, error)
    return found


def memory_bytes(root: Path = Path("/")) -> float | None:
    """Of this process, resident."""
    try:
        return float(_text(root / "proc/self/statm").split()[1]) * _PAGE
    except (IndexError, ValueError):
        return None


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "_", text.lower()).strip("_")[:64]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""
