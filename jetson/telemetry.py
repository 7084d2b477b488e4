"""What a Jetson says of itself: power, temperatures, clocks and the mode it runs in.

A number that was measured on a Jetson means little without these, so they stand beside it.  Parsers
take text and are pure; `snapshot` reads the files of a running system below `root`.  What a system
does not have is left out, not made up: on a PC a snapshot is almost empty.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jetson.machine import jetpack_of, l4t_release

_RAIL = re.compile(r"\b(VDD_\w+|VIN\w*|CPU|GPU|SOC|CV|SYS5V|POM_\w+) (\d+)(?:mW)?/(\d+)(?:mW)?")
_TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b")
_CORE = re.compile(r"off|(\d+)%@(\d+)")
_UNPLUGGED_C = -256  # what tegrastats says of a sensor without power


@dataclass(frozen=True, slots=True, kw_only=True)
class Tegrastats:
    """One line of `tegrastats`."""

    ram_used_mb: int | None = None
    ram_total_mb: int | None = None
    cpu_percent: tuple[int | None, ...] = ()  # None for a core that is off
    cpu_mhz: tuple[int | None, ...] = ()
    gpu_percent: int | None = None
    gpu_mhz: int | None = None
    memory_mhz: int | None = None  # of the memory's bus, EMC
    temperature_c: Mapping[str, float] = field(default_factory=dict)
    power_mw: Mapping[str, int] = field(default_factory=dict)  # now, by rail
    power_average_mw: Mapping[str, int] = field(default_factory=dict)


def parse_tegrastats(line: str) -> Tegrastats:
    """Reads what it knows of a line, of JetPack 5 to 7; what it does not know is left out."""
    ram = re.search(r"\bRAM (\d+)/(\d+)MB", line)
    cores: list[tuple[int | None, int | None]] = []
    if cpu := re.search(r"\bCPU \[([^\]]*)\]", line):
        for text in cpu[1].split(","):
            core = _CORE.fullmatch(text.strip())
            if core:
                cores.append((int(core[1]), int(core[2])) if core[1] else (None, None))
    gpu = re.search(r"\bGR3D_FREQ (\d+)%(?:@\[?(\d+))?", line)
    memory = re.search(r"\bEMC_FREQ \d+%@(\d+)", line)
    rails = _RAIL.findall(line)
    return Tegrastats(
        ram_used_mb=int(ram[1]) if ram else None,
        ram_total_mb=int(ram[2]) if ram else None,
        cpu_percent=tuple(percent for percent, _ in cores),
        cpu_mhz=tuple(mhz for _, mhz in cores),
        gpu_percent=int(gpu[1]) if gpu else None,
        gpu_mhz=int(gpu[2]) if gpu and gpu[2] else None,
        memory_mhz=int(memory[1]) if memory else None,
        temperature_c={
            name: float(value)
            for name, value in _TEMPERATURE.findall(line)
            if float(value) > _UNPLUGGED_C
        },
        power_mw={name: int(now) for name, now, _ in rails},
        power_average_mw={name: int(average) for name, _, average in rails},
    )


def parse_nvpmodel(text: str) -> str:
    """`nvpmodel -q`'s mode, like "MAXN" or "15W"; "" for anything else."""
    found = re.search(r"NV Power Mode:\s*(\S+)", text)
    return found[1] if found else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of the machine at one moment."""

    model: str = ""  # "NVIDIA Jetson Orin Nano Developer Kit"
    l4t: str = ""
    jetpack: str = ""
    power_mode: str = ""  # of nvpmodel
    temperature_c: Mapping[str, float] = field(default_factory=dict)
    power_mw: Mapping[str, float] = field(default_factory=dict)
    cpu_mhz: Mapping[str, float] = field(default_factory=dict)
    cpu_governor: str = ""
    gpu_mhz: float | None = None
    gpu_max_mhz: float | None = None
    throttled: bool | None = None  # over-current alarms since boot, where they are counted

    def to_json(self) -> dict[str, Any]:
        """Without what is not known."""
        return {name: value for name, value in asdict(self).items() if value not in ("", {}, None)}


def snapshot(root: Path = Path("/"), *, ask_nvpmodel: bool = True) -> Snapshot:
    """Reads /proc and /sys below `root`; runs `nvpmodel -q` unless told not to."""
    l4t = l4t_release(root)
    gpu = _gpu(root)
    return Snapshot(
        model=_text(root / "proc/device-tree/model").rstrip("\0"),
        l4t=l4t,
        jetpack=jetpack_of(l4t),
        power_mode=_power_mode() if ask_nvpmodel and l4t else "",
        temperature_c=_temperatures(root),
        power_mw=_power(root),
        cpu_mhz=_cpu_clocks(root),
        cpu_governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        gpu_mhz=_scaled(gpu / "cur_freq", 1e6) if gpu else None,
        gpu_max_mhz=_scaled(gpu / "max_freq", 1e6) if gpu else None,
        throttled=_throttled(root),
    )


def gauges(root: Path = Path("/")) -> dict[str, float]:
    """The numbers of a snapshot by name: an agent's gauges (`edge_runtime.agent.gauges`)."""
    now = snapshot(root, ask_nvpmodel=False)
    found = {f"temperature_{name}_c": value for name, value in now.temperature_c.items()}
    found |= {f"power_{name}_mw": value for name, value in now.power_mw.items()}
    found |= {f"clock_{name}_mhz": value for name, value in now.cpu_mhz.items()}
    for name, number in (("clock_gpu_mhz", now.gpu_mhz), ("throttled", now.throttled)):
        if number is not None:
            found[name] = float(number)
    return found


def _temperatures(root: Path) -> dict[str, float]:
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        celsius = _scaled(zone / "temp", 1000)
        if celsius is not None and celsius > _UNPLUGGED_C:
            found[_text(zone / "type").removesuffix("-thermal")] = celsius
    return found


def _power(root: Path) -> dict[str, float]:
    """Rails of the INA3221 monitors: volts and amperes in thousandths, label by label."""
    found = {}
    for monitor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if _text(monitor / "name") != "ina3221":
            continue
        for label in sorted(monitor.glob("in[1-3]_label")):
            number = label.name[2]
            millivolts = _scaled(monitor / f"in{number}_input", 1)
            milliamperes = _scaled(monitor / f"curr{number}_input", 1)
            if millivolts is not None and milliamperes is not None:
                found[_text(label)] = round(millivolts * milliamperes / 1000, 1)
    return found


def _cpu_clocks(root: Path) -> dict[str, float]:
    found = {}
    for policy in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*")):
        mhz = _scaled(policy / "scaling_cur_freq", 1000)
        if mhz is not None:
            found[policy.name] = mhz
    return found


def _gpu(root: Path) -> Path | None:
    """The GPU among the devices whose clock is scaled: 17000000.gpu on Orin, gpc0 on Thor."""
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        if re.search(r"gpu|ga10b|gv11b|gpc", device.name):
            return device
    return None


def _throttled(root: Path) -> bool | None:
    counts = [
        count
        for monitor in (root / "sys/class/hwmon").glob("hwmon*")
        if _text(monitor / "name").startswith("soctherm_oc")
        for file in monitor.glob("oc*_event_cnt")
        if (count := _scaled(file, 1)) is not None
    ]
    return any(counts) if counts else None


def _power_mode() -> str:
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return parse_nvpmodel(done.stdout)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _scaled(path: Path, divisor: float) -> float | None:
    try:
        return int(_text(path)) / divisor
    except ValueError:
        return None
