"""The verb `engine`: as a process without a GPU, and in this process on a simulated one."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import cli
from edge_runtime.bundle import Bundle
from jetson import cuda, trt
from jetson.commands import engine
from jetson.store import Store
from tests.edge_runtime.command_line import error_line, vitconformer
from tests.jetson.engines import memory_bundle
from tests.jetson.simulated import Faults, SimulatedCuda, simulated_tensorrt

QUICK = ("--steps", "5", "--batches", "1,2")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return memory_bundle(tmp_path / "bundle")


def plug_in(monkeypatch: pytest.MonkeyPatch, **faults: Any) -> None:
    gpu = SimulatedCuda()
    module = simulated_tensorrt(gpu, faults=Faults(**faults))
    monkeypatch.setattr(cuda, "open_cuda", lambda package=None: gpu)
    monkeypatch.setattr(trt, "load", lambda: module)
    monkeypatch.setattr("os.nice", lambda by: 0)
    ticks = itertools.count()  # every step takes a millisecond, however busy this machine is
    monkeypatch.setattr("jetson.goldens.perf_counter", lambda: next(ticks) / 1000)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["engine", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_without_a_gpu_info_says_so_and_building_fails_with_one_line(
    bundle: Bundle, tmp_path: Path
) -> None:
    store = ("--store", tmp_path / "engines")
    done = vitconformer("engine", "info", "--json", *store, variables={"CUDA_VISIBLE_DEVICES": ""})
    facts = json.loads(done.stdout)
    if "machine" in facts:
        pytest.skip("this machine has a GPU")
    assert done.returncode == 0
    assert "no GPU can be used" in facts["unusable"]
    for action in ("build", "bench", "selftest"):
        done = vitconformer("engine", action, "--bundle", bundle.path, *store)
        assert done.returncode == 1
        assert error_line(done).startswith("no GPU can be used (cuda-python: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "--candidates", "int4"], "--candidates int4: there are int8, fp16"),
        (["build", "--candidates", ","], "--candidates is empty"),
        (["build", "--chunk-ms", "75"], "--chunk-ms 75: a positive multiple of 10"),
        (["build", "--bundle", "nowhere"], "nowhere: does not exist"),
    ],
)
def test_a_mistake_is_told_before_anything_is_opened(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code in (1, 2)
    assert said in err
    assert out == ""


def test_build_then_info_then_bench(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plug_in(monkeypatch)
    common = ("--bundle", bundle.path, "--store", tmp_path / "engines", *QUICK)
    code, out, err = run(capsys, "build", *common)
    assert code == 0
    assert out.split()[1:2] == ["engine"]
    assert "int8: building from encoder.int8-trt10.onnx, 4 profiles" in err
    code, out, _ = run(capsys, "info", *common)
    assert "Orin (simulated), SM 87" in out
    assert "refused" not in out
    code, out, _ = run(capsys, "bench", "--json", *common)
    facts = json.loads(out)
    cases = {(row["chunk_ms"], row["batch"], row["cuda_graphs"]) for row in facts["times"]}
    assert cases == {
        (ms, n, graphs) for ms in (160, 320) for n in (1, 2) for graphs in (True, False)
    }
    code, out, _ = run(capsys, "bench", *common)
    assert (code, len(out.splitlines())) == (0, 2 + 8 + 1)


def test_the_selftest_is_one_json_object(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plug_in(monkeypatch)
    common = ("--bundle", bundle.path, "--store", tmp_path / "engines", *QUICK)
    code, out, _ = run(capsys, "selftest", *common)
    facts = json.loads(out)
    assert code == 0
    assert facts["failed"] is None
    assert facts["info"]["machine"]["tensorrt"] == "10.3.0"
    assert set(facts["build"]["tried"]) == {"int8", "fp16"}
    assert facts["bench"]["candidate"] == facts["build"]["chosen"]


def test_a_failed_build_is_exit_one_with_its_reasons(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plug_in(monkeypatch, out_of_memory=True)
    common = ("--bundle", bundle.path, "--store", tmp_path / "engines", *QUICK)
    code, out, _ = run(capsys, "build", "--json", *common)
    facts = json.loads(out)
    assert code == 1
    assert all("Out of memory" in tried["failed"] for tried in facts["tried"].values())
    code, out, _ = run(capsys, "selftest", *common)
    assert code == 1
    assert "bench" not in json.loads(out)


def test_a_second_build_waits_for_nobody(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plug_in(monkeypatch)
    with Store(tmp_path / "engines").building():
        code, _, err = run(
            capsys, "build", "--bundle", bundle.path, "--store", tmp_path / "engines", *QUICK
        )
    assert code == 2
    assert "another build is running" in err


def test_in_the_background_the_command_returns_and_the_log_says_what_happened(
    bundle: Bundle, tmp_path: Path
) -> None:
    import time

    store = tmp_path / "engines"
    done = vitconformer(
        "engine", "build", "--background", "--json", "--bundle", bundle.path, "--store", store
    )
    assert done.returncode == 0
    facts = json.loads(done.stdout)
    deadline = time.monotonic() + 60
    while not Path(facts["log"]).read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "no GPU can be used" in Path(facts["log"]).read_text()


def test_the_actions_of_the_help_are_those_there_are() -> None:
    parser = argparse.ArgumentParser()
    engine.configure(parser)
    assert all(f"{action}:" in parser.format_help() for action in engine.ACTIONS)
