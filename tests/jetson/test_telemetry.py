"""Telemetry: lines of tegrastats as JetPacks print them, and trees of /sys as boards have them.

The lines are of the documented forms; none was recorded by us.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jetson.machine import jetpack_of, l4t_release, parse_l4t
from jetson.telemetry import Snapshot, parse_nvpmodel, parse_tegrastats, snapshot

ORIN_NANO = (
    "05-13-2026 12:38:34 RAM 5143/7620MB (lfb 2x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [1%@729,0%@729,off,off,2%@1510,0%@1510] EMC_FREQ 0%@2133 GR3D_FREQ 37%@[305] NVDEC off "
    "NVJPG off VIC off OFA off APE 200 cpu@49.812C soc2@48.218C soc0@49.062C gpu@48.968C "
    "tj@49.812C soc1@49C VDD_IN 4553mW/4521mW VDD_CPU_GPU_CV 519mW/520mW VDD_SOC 1483mW/1480mW"
)
AGX_ORIN = (
    "RAM 3004/30588MB (lfb 6236x4MB) SWAP 0/15294MB (cached 0MB) CPU [4%@1190,off] "
    "EMC_FREQ 1%@2133 GR3D_FREQ 99%@[1300,1300] VIC_FREQ 729 APE 174 CV0@-256C CPU@48.031C "
    "Tboard@36C SOC2@44.687C Tdiode@36.25C SOC0@45.187C CV1@-256C GPU@-256C tj@48.031C "
    "SOC1@44.062C CV2@-256C VDD_GPU_SOC 3205mW/3205mW VDD_CPU_CV 801mW/801mW "
    "VIN_SYS_5V0 3337mW/3337mW VDDQ_VDD2_1V8AO 404mW/404mW"
)
XAVIER_JETPACK_4 = (
    "RAM 1903/7772MB (lfb 1x1MB) CPU [2%@1190,1%@1190] EMC_FREQ 0% GR3D_FREQ 0% AO@34.5C "
    "GPU@33C PMIC@50C VDD_IN 3150/3150 VDD_CPU_GPU_CV 404/404"
)


def test_a_line_of_orin_nano() -> None:
    found = parse_tegrastats(ORIN_NANO)
    assert (found.ram_used_mb, found.ram_total_mb) == (5143, 7620)
    assert found.cpu_percent == (1, 0, None, None, 2, 0)
    assert found.cpu_mhz == (729, 729, None, None, 1510, 1510)
    assert (found.gpu_percent, found.gpu_mhz, found.memory_mhz) == (37, 305, 2133)
    assert found.temperature_c["gpu"] == 48.968
    assert found.temperature_c["soc1"] == 49
    assert found.power_mw == {"VDD_IN": 4553, "VDD_CPU_GPU_CV": 519, "VDD_SOC": 1483}
    assert found.power_average_mw["VDD_IN"] == 4521


def test_a_line_of_agx_orin_without_its_unplugged_sensors() -> None:
    found = parse_tegrastats(AGX_ORIN)
    assert (found.gpu_percent, found.gpu_mhz) == (99, 1300)
    assert set(found.temperature_c) == {
        *("CPU", "Tboard", "SOC2", "Tdiode", "SOC0", "tj", "SOC1"),
    }
    assert found.power_mw["VIN_SYS_5V0"] == 3337
    assert found.power_mw["VDD_GPU_SOC"] == 3205


def test_a_line_without_units_and_clocks() -> None:
    found = parse_tegrastats(XAVIER_JETPACK_4)
    assert (found.gpu_percent, found.gpu_mhz, found.memory_mhz) == (0, None, None)
    assert found.power_mw == {"VDD_IN": 3150, "VDD_CPU_GPU_CV": 404}


@pytest.mark.parametrize("line", ["", "CPU [", "RAM x/yMB", "GR3D_FREQ %@", "\0\xff", "CPU [,,%@]"])
def test_what_is_no_such_line_gives_nothing(line: str) -> None:
    found = parse_tegrastats(line)
    assert (found.ram_used_mb, found.cpu_percent, found.power_mw) == (None, (), {})


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: 15W\n0\n", "15W"),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER"),
        ("nvpmodel: command not found", ""),
    ],
)
def test_the_power_mode(text: str, mode: str) -> None:
    assert parse_nvpmodel(text) == mode


@pytest.mark.parametrize(
    ("text", "l4t", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3", "6.2"),
        ("# R36 (release), REVISION: 4.0, GCID: 1, BOARD: generic", "36.4", "6.1"),
        ("# R36 (release), REVISION: 3.0, GCID: 36923193", "36.3", "6.0"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178", "35.4.1", "5.1"),
        ("# R38 (release), REVISION: 4.0, GCID: 1", "38.4", "7.1"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1", ""),
        ("Debian GNU/Linux 12", "", ""),
    ],
)
def test_the_release_names_the_jetpack(text: str, l4t: str, jetpack: str) -> None:
    assert parse_l4t(text) == l4t
    assert jetpack_of(l4t) == jetpack


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_a_board_as_its_files_show_it(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1\n",
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "49812\n",
            "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
            "sys/class/thermal/thermal_zone1/temp": "48968\n",
            "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
            "sys/class/thermal/thermal_zone2/temp": "-256000\n",
            "sys/class/hwmon/hwmon1/name": "ina3221\n",
            "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
            "sys/class/hwmon/hwmon1/in1_input": "5000\n",
            "sys/class/hwmon/hwmon1/curr1_input": "912\n",
            "sys/class/hwmon/hwmon1/in2_label": "VDD_SOC\n",
            "sys/class/hwmon/hwmon0/name": "tmp451\n",
            "sys/class/hwmon/hwmon2/name": "soctherm_oc\n",
            "sys/class/hwmon/hwmon2/oc1_event_cnt": "0\n",
            "sys/class/hwmon/hwmon2/oc3_event_cnt": "4\n",
            "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
            "sys/class/devfreq/17000000.gpu/max_freq": "624750000\n",
            "sys/class/devfreq/15340000.vic/cur_freq": "1\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1510400\n",
            "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "729600\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        },
    )
    assert snapshot(root, ask_nvpmodel=False) == Snapshot(
        model="NVIDIA Jetson Orin Nano Developer Kit",
        l4t="36.4.3",
        jetpack="6.2",
        temperature_c={"cpu": 49.812, "gpu": 48.968},
        power_mw={"VDD_IN": 4560.0},
        cpu_mhz={"policy0": 1510.4, "policy4": 729.6},
        cpu_governor="schedutil",
        gpu_mhz=306.0,
        gpu_max_mhz=624.75,
        throttled=True,
    )


def test_what_a_machine_does_not_have_is_left_out(tmp_path: Path) -> None:
    assert snapshot(tmp_path).to_json() == {}
    assert l4t_release(tmp_path) == ""


def test_files_that_cannot_be_read_as_numbers_are_left_out(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "N/A\n",
            "sys/class/devfreq/gpu-gpc-0/cur_freq": "",
            "etc/nv_tegra_release": "\xff\xfe",
        },
    )
    assert snapshot(root, ask_nvpmodel=False).to_json() == {}
