"""From a bundle to the engine that runs: the chain, its reports, and what a failure leaves.

TensorRT and CUDA are simulated: times and errors here are chosen by the tests.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends import open_backend
from edge_runtime.backends.onnx import OnnxBackend
from edge_runtime.bundle import Bundle
from edge_runtime.commands import options
from edge_runtime.engine import Engine
from edge_runtime.errors import BackendError, BundleError, BundleTampered, ConfigError
from jetson import cuda as cuda_module
from jetson import opening
from jetson import trt as trt_module
from jetson.backend import TensorRTBackend
from jetson.goldens import Goldens
from jetson.machine import this_machine
from jetson.prepare import Gate, Options, Outcome, Site, choose, judge, prepare, source_of
from jetson.store import Store
from tests.jetson.engines import memory_bundle, memory_goldens, windows
from tests.jetson.simulated import Faults, SimulatedCuda, simulated_tensorrt

QUICK = Options(batches=(1, 2), steps=20, warm_up=2, gate=Gate(real_time=5))
SLOW = 0.004  # s, far beyond what a step of the tiny model takes


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return memory_bundle(tmp_path / "bundle")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("VITCONFORMER_ENGINES", str(tmp_path / "engines"))
    return Store.default()


class Rig:
    """A simulated machine."""

    def __init__(self, store: Store, version: str = "10.3.0", **faults: object) -> None:
        self.store, self.cuda = store, SimulatedCuda()
        self.trt = simulated_tensorrt(self.cuda, version, Faults(**faults))  # type: ignore[arg-type]
        self.machine = this_machine(self.cuda, self.trt)
        self.reports: list[str] = []
        self.report: Callable[[str], None] = self.reports.append

    def prepare(
        self, bundle: Bundle, wanted: Options = QUICK, goldens: Goldens | None = None
    ) -> Outcome:
        site = Site(cuda=self.cuda, trt=self.trt, machine=self.machine, store=self.store)
        return prepare(bundle, goldens, site, wanted, self.report)

    def plugged_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes the entry points open this machine."""
        monkeypatch.setattr(cuda_module, "open_cuda", lambda package=None: self.cuda)
        monkeypatch.setattr(trt_module, "load", lambda: self.trt)


def test_the_engine_that_was_built_streams_what_the_float_graph_streams(
    bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(store)
    assert rig.prepare(bundle).record is not None
    rig.plugged_in(monkeypatch)
    x = windows(1, 150)[0]
    outputs = []
    for backend in ("tensorrt", "onnxruntime"):
        session = Engine.from_bundle(bundle, backend=backend).session(2)
        session.push(x, 1)
        session.finish(1)
        got = []
        while found := session.step():
            got += [out.logprobs.copy() for out in found]
        outputs.append(np.concatenate(got))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)


def test_every_chunk_size_and_batch_is_proven_and_timed(bundle: Bundle, store: Store) -> None:
    outcome = Rig(store).prepare(bundle)
    assert outcome.record is not None
    for tried in outcome.record.measured["candidates"].values():
        cases = [(p["chunk_frames"], p["batch"]) for p in tried["profiles"]]
        assert cases == [(16, 1), (16, 2), (32, 1), (32, 2)]
        assert all(p["argmax"] == 1.0 and p["p95_ms"] > 0 for p in tried["profiles"])


@pytest.mark.parametrize(("slow", "expected"), [("int8", "fp16"), ("fp16", "int8")])
def test_the_faster_engine_is_kept(tmp_path: Path, store: Store, slow: str, expected: str) -> None:
    """On TensorRT 8, whose modes tell the two apart in the simulation."""
    bundle = memory_bundle(tmp_path / "bundle")
    mode = {"int8": "weak+1+0", "fp16": "weak+0"}[slow]
    outcome = Rig(store, "8.6.2", seconds={mode: SLOW}).prepare(bundle)
    assert outcome.record is not None
    assert outcome.record.candidate == expected
    times = {name: tried["profiles"][0]["p50_ms"] for name, tried in outcome.tried.items()}
    assert times[slow] > times[expected]


def test_int8_must_be_clearly_faster() -> None:
    def measured(p50: float) -> dict[str, object]:
        return {"profiles": [{"batch": 1, "chunk_frames": 32, "p50_ms": p50}]}

    assert choose({"int8": measured(0.99), "fp16": measured(1.0)}, 32) == "fp16"
    assert choose({"int8": measured(0.90), "fp16": measured(1.0)}, 32) == "int8"
    assert choose({"int8": measured(2.0)}, 32) == "int8"


def test_an_int8_engine_that_says_other_words_gives_way_to_fp16(
    bundle: Bundle, store: Store
) -> None:
    rig = Rig(store, "8.6.2", wrong={"weak+1+0": 3.0})
    outcome = rig.prepare(bundle)
    assert outcome.record is not None
    assert outcome.record.candidate == "fp16"
    assert "of the tokens agree" in outcome.tried["int8"]["failed"]
    assert [line.split(":")[0] for line in rig.reports] == [
        "int8",
        "int8",
        "fp16",
        "fp16",
        "fp16 it is",
    ]


def test_where_no_engine_is_fit_onnxruntime_runs_and_each_step_was_reported(
    bundle: Bundle,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(store, out_of_memory=True)
    assert rig.prepare(bundle).record is None
    assert [line.partition(":")[0] for line in rig.reports[:4]] == ["int8", "int8", "fp16", "fp16"]
    assert "Out of memory" in rig.reports[1]
    assert "onnxruntime on the CPU" in rig.reports[-1]
    rig.plugged_in(monkeypatch)
    with pytest.raises(BackendError, match="engine build"):
        open_backend("tensorrt", bundle.model())
    assert isinstance(open_backend("jetson", bundle.model()), OnnxBackend)
    assert "onnxruntime runs on the CPU: no engine" in caplog.text


@pytest.mark.parametrize(
    "faults",
    [
        {"out_of_memory": True},
        {"unsupported": "opset 23"},
        {"enqueue": True},
        {"wrong": {"strong": 9.0}},
    ],
    ids=lambda faults: next(iter(faults)),
)
def test_the_engine_before_stays_when_a_build_fails(
    bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch, faults: dict[str, object]
) -> None:
    first = Rig(store)
    kept = first.prepare(bundle).record
    outcome = Rig(store, **faults).prepare(bundle)
    assert outcome.record is None
    assert all(tried["failed"] for tried in outcome.tried.values())
    first.plugged_in(monkeypatch)
    assert kept is not None
    assert store.plan(kept, first.machine)
    assert isinstance(open_backend("jetson", bundle.model()), TensorRTBackend)


def test_a_build_that_is_killed_leaves_the_engine_before(
    bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step that it reports, and while it measures."""
    first = Rig(store)
    kept = first.prepare(bundle).record
    assert kept is not None
    plan = store.plan(kept, first.machine)

    class Killed(BaseException):
        pass

    for last in range(5):
        rig = Rig(store)
        steps: Iterator[int] = iter(range(last))

        def report(text: str, steps: Iterator[int] = steps) -> None:
            if next(steps, None) is None:
                raise Killed

        rig.report = report
        with pytest.raises(Killed):
            rig.prepare(bundle)
        assert store.plan(store.find(kept.model, first.machine), first.machine) == plan


def test_any_graph_of_the_bundle_opens_its_engine(
    bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(store)
    rig.prepare(bundle)
    rig.plugged_in(monkeypatch)
    for precision in bundle.manifest.precisions:
        assert isinstance(opening.open_tensorrt(bundle.model(precision)), TensorRTBackend)


def test_the_recogniser_s_command_line_runs_the_engine(
    bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(store)
    rig.prepare(bundle)
    rig.plugged_in(monkeypatch)
    parser = argparse.ArgumentParser()
    options.add_model_options(parser)
    options.add_decoding_options(parser)
    for name, kind in (("tensorrt", TensorRTBackend), ("onnxruntime", OnnxBackend)):
        args = parser.parse_args(["--bundle", str(bundle.path), "--backend", name])
        assert type(options.open_recognizer(args).engine._backend) is kind


def test_a_new_tensorrt_wants_a_new_engine(
    bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    Rig(store).prepare(bundle)
    updated = Rig(store, "10.16.1")
    updated.plugged_in(monkeypatch)
    with pytest.raises(BackendError, match=r"built for .*10\.3\.0.*this is .*10\.16\.1"):
        opening.open_tensorrt(bundle.model())
    assert updated.prepare(bundle).record is not None
    assert isinstance(opening.open_tensorrt(bundle.model()), TensorRTBackend)


def test_a_foreign_engine_is_never_given_to_tensorrt(
    bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(store)
    kept = rig.prepare(bundle).record
    assert kept is not None
    (store.root / kept.plan).write_bytes(b"code of somebody else")
    rig.plugged_in(monkeypatch)

    def refuse(logger: object) -> None:
        raise AssertionError("a Runtime was made")

    monkeypatch.setattr(rig.trt, "Runtime", refuse)
    with pytest.raises(BundleTampered, match="SHA-256"):
        opening.open_tensorrt(bundle.model())
    assert isinstance(opening.open_best(bundle.model()), OnnxBackend)
    assert "SHA-256" in caplog.text


def test_without_a_driver_nothing_of_tensorrt_is_touched(
    bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Runtime ends the process there."""

    def no_driver(package: str | None = None) -> None:
        raise BackendError("no CUDA driver")

    def refuse() -> None:
        raise AssertionError("TensorRT was loaded")

    monkeypatch.setattr(cuda_module, "open_cuda", no_driver)
    monkeypatch.setattr(trt_module, "load", refuse)
    with pytest.raises(BackendError, match="no CUDA driver"):
        opening.open_tensorrt(bundle.model())
    assert isinstance(opening.open_best(bundle.model()), OnnxBackend)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        opening.open_tensorrt(tmp_path / "encoder.onnx")


@pytest.mark.parametrize(
    ("candidate", "major", "expected"),
    [
        ("int8", 8, ("int8-trt8", "int8")),
        ("int8", 10, ("int8-trt10", "strong")),
        ("int8", 11, ("int8-trt10", "strong")),
        ("fp16", 8, ("float32", "fp16")),
        ("fp16", 10, ("float16-trt10", "strong")),
        ("fp16", 11, ("float16-trt10", "strong")),
    ],
)
def test_each_version_is_given_the_file_it_reads(
    bundle: Bundle, candidate: str, major: int, expected: tuple[str, str]
) -> None:
    precision, mode = expected
    assert source_of(bundle, candidate, major) == (bundle.model(precision), mode)


def test_without_a_float16_file_tensorrt_10_narrows_the_float_graph_and_11_cannot(
    bundle: Bundle,
) -> None:
    names = {n: f for n, f in bundle.manifest.precisions.items() if n != "float16-trt10"}
    bare = replace(bundle, manifest=replace(bundle.manifest, precisions=names))
    assert source_of(bare, "fp16", 10) == (bundle.model(), "fp16")
    with pytest.raises(BundleError, match=r"has no float16-trt10.*--targets trt10"):
        source_of(bare, "fp16", 11)


def test_a_bundle_without_goldens_is_compared_on_noise_and_that_is_said(
    tmp_path: Path, store: Store
) -> None:
    rig = Rig(store)
    assert rig.prepare(memory_bundle(tmp_path / "bare", goldens=False)).record is not None
    assert any("comparing on noise" in line for line in rig.reports)


def test_goldens_that_contradict_the_engine_stop_it(
    tmp_path: Path, bundle: Bundle, store: Store
) -> None:
    goldens = memory_goldens(tmp_path)
    lies = replace(goldens, logprobs=goldens.logprobs[..., ::-1].copy())
    sixteen = replace(QUICK, chunk_frames=(16,))
    assert Rig(store).prepare(bundle, sixteen, lies).record is None


def test_goldens_of_another_model_are_an_error(
    tmp_path: Path, bundle: Bundle, store: Store
) -> None:
    goldens = memory_goldens(tmp_path)
    states = (np.zeros((9, 9, 9), np.float32), *goldens.states[1:])
    with pytest.raises(BundleError, match="of another model"):
        Rig(store).prepare(bundle, QUICK, replace(goldens, states=states))


def test_a_chunk_that_the_bundle_lacks_is_an_error(bundle: Bundle, store: Store) -> None:
    with pytest.raises(ConfigError, match="no chunk of 240 ms: there are 160, 320"):
        Rig(store).prepare(bundle, replace(QUICK, chunk_frames=(24,)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"argmax": 0.5}, "50.00% of the tokens"),
        ({"snr_db": 3.0}, "3.0 dB"),
        ({"snr_db": float("nan")}, "nan dB"),
        ({"argmax": float("nan")}, "nan%"),
        ({"p95_ms": 161.0}, "takes 161.0 ms"),
    ],
)
def test_the_gate_names_what_was_missed(change: dict[str, float], said: str) -> None:
    good = {"chunk_frames": 32, "batch": 1, "argmax": 1.0, "snr_db": 50.0, "p95_ms": 1.0}
    assert judge({"profiles": [good]}, Gate()) == []
    [failure] = judge({"profiles": [good, {**good, **change}]}, Gate())
    assert failure.startswith("320 ms, batch 1: ")
    assert said in failure
