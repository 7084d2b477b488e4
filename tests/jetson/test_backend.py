"""The TensorRT backend, over a simulated CUDA and TensorRT that compute with onnxruntime."""

from __future__ import annotations

import gc
import logging
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends.onnx import OnnxBackend, open_onnx
from edge_runtime.engine import Engine
from edge_runtime.errors import BackendError, BundleIncompatible
from edge_runtime.modelspec import ModelSpec
from jetson.backend import GraphFacts, TensorRTBackend
from tests.jetson.engines import memory_engine, shapes, step, windows
from tests.jetson.simulated import DISCRETE, ORIN, Faults, SimulatedCuda, simulated_tensorrt
from tests.models import memory_model, memory_numpy, save

GPUS = pytest.mark.parametrize("gpu", [ORIN, DISCRETE], ids=["integrated", "discrete"])
VERSIONS = pytest.mark.parametrize("version", ["8.6.2", "10.3.0", "11.4.0"])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> OnnxBackend:
    return open_onnx(save(memory_model(), tmp_path_factory.mktemp("m") / "encoder.onnx"))


@GPUS
@VERSIONS
@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "queued"])
def test_every_batch_streams_what_onnxruntime_streams(
    tmp_path: Path, reference: OnnxBackend, gpu: object, version: str, graphs: bool
) -> None:
    cuda = SimulatedCuda(gpu)  # type: ignore[arg-type]
    backend = memory_engine(tmp_path, cuda, version=version, graphs=graphs)
    for batch in range(1, 9):
        ours, theirs = backend.bind(shapes(batch, 8)), reference.bind(shapes(batch, 8))
        rng = np.random.default_rng(batch)
        for _ in range(5):
            features = rng.normal(-8, 4, (batch, 80, 8)).astype(np.float32)
            lengths = rng.integers(1, 9, batch)
            for binding in (ours, theirs):
                binding.features[:], binding.lengths[:] = features, lengths
            np.testing.assert_allclose(ours.run(), theirs.run(), atol=1e-5)
            for row in range(batch):
                for a, b in zip(ours.read_state(row), theirs.read_state(row), strict=True):
                    assert a.dtype == b.dtype
                    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_batch_runs_in_the_smallest_profile_that_holds_it(tmp_path: Path) -> None:
    backend = memory_engine(tmp_path)
    padded = {batch: backend._profile(shapes(batch, 16))[1][0] for batch in range(1, 9)}
    assert padded == {n: (p, 80, 16) for n, p in zip(range(1, 9), (1, 2, 4, 4, 8, 8, 8, 8))}  # noqa: B905


def test_the_rows_that_pad_a_batch_change_nothing(tmp_path: Path) -> None:
    backend = memory_engine(tmp_path)
    three, eight = backend.bind(shapes(3, 8)), backend.bind(shapes(8, 8))
    for window in windows(4, 8):
        np.testing.assert_allclose(step(three, window), step(eight, window)[:3], atol=1e-6)


@pytest.mark.parametrize(("batch", "frames"), [(9, 8), (1, 24)])
def test_a_shape_without_a_profile_is_refused_with_those_there_are(
    tmp_path: Path, batch: int, frames: int
) -> None:
    with pytest.raises(BundleIncompatible, match=r"1 x 8, 2 x 8, .*8 x 16.*engine build"):
        memory_engine(tmp_path).bind(shapes(batch, frames))


@GPUS
def test_a_step_is_one_launch_and_one_wait(tmp_path: Path, gpu: object) -> None:
    cuda = SimulatedCuda(gpu)  # type: ignore[arg-type]
    binding = memory_engine(tmp_path, cuda).bind(shapes(1, 8))
    assert binding.recorded
    assert cuda.counts["capture"] == 2  # A to B, and B to A
    before = dict(cuda.counts)
    for window in windows(10, 8):
        step(binding, window)
    made = {what: n - before.get(what, 0) for what, n in cuda.counts.items()}
    assert {what: n for what, n in made.items() if n} == {"launch": 10, "synchronize": 10}


def test_states_take_turns_and_are_never_copied(tmp_path: Path) -> None:
    cuda = SimulatedCuda()
    binding = memory_engine(tmp_path, cuda).bind(shapes(1, 8))
    sides = [tuple(state.addresses) for state in binding._states]
    assert len({address for pair in sides for address in pair}) == 6
    for k, window in enumerate(windows(4, 8)):
        old = [bytes(cuda.view(s.addresses[k % 2], s.size)) for s in binding._states]
        step(binding, window)
        for state, before in zip(binding._states, old, strict=True):
            assert bytes(cuda.view(state.addresses[k % 2], state.size)) == before  # only read
            assert bytes(cuda.view(state.addresses[1 - k % 2], state.size)) != before


def test_an_integrated_gpu_works_where_the_host_s_arrays_lie(tmp_path: Path) -> None:
    cuda = SimulatedCuda(ORIN)
    binding = memory_engine(tmp_path, cuda).bind(shapes(2, 8))
    step(binding, windows(1, 8)[0])
    assert "to_device" not in cuda.counts
    assert "to_host" not in cuda.counts
    for array in (binding.features, binding.run()):
        cuda.view(array.ctypes.data, array.nbytes)  # is the simulated driver's memory


def test_a_simulation_that_forgets_to_wait_reads_old_bytes(tmp_path: Path) -> None:
    """The simulated stream is asynchronous, so the tests here would notice a missing wait."""
    cuda = SimulatedCuda()
    binding = memory_engine(tmp_path, cuda).bind(shapes(1, 8))
    first = step(binding, windows(1, 8)[0])
    binding.features[:] = 0
    cuda.launch(binding._graphs[1], binding._stream)
    assert np.array_equal(binding._logprobs, first)
    cuda.synchronize(binding._stream)
    assert not np.array_equal(binding._logprobs, first)


@GPUS
def test_a_kept_row_can_be_run_again_with_the_same_result(tmp_path: Path, gpu: object) -> None:
    binding = memory_engine(tmp_path, SimulatedCuda(gpu)).bind(shapes(3, 8))  # type: ignore[arg-type]
    x = windows(4, 8)
    for window in x[:3]:
        step(binding, window)
    before = binding.read_state(1)
    first = step(binding, x[3])
    binding.keep(1)
    assert all(map(np.array_equal, binding.read_state(1), before))
    second = step(binding, x[3])
    assert second[1].tobytes() == first[1].tobytes()
    assert second[0].tobytes() != first[0].tobytes()


def test_a_reset_row_is_zero_on_either_side_and_its_neighbour_is_not(tmp_path: Path) -> None:
    binding = memory_engine(tmp_path).bind(shapes(2, 8))
    for window in windows(3, 8):
        step(binding, window)
        binding.reset(0)
        assert not any(part.any() for part in binding.read_state(0))
        assert all(part.any() for part in binding.read_state(1))


def test_a_state_goes_on_in_another_row_and_in_onnxruntime(
    tmp_path: Path, reference: OnnxBackend
) -> None:
    x = windows(5, 8)
    backend = memory_engine(tmp_path)
    single, batch = backend.bind(shapes(1, 8)), backend.bind(shapes(3, 8))
    cpu = reference.bind(shapes(1, 8))
    for window in x[:4]:
        step(single, window)
    state = single.read_state(0)
    batch.write_state(2, state)
    cpu.write_state(0, state)
    expected = step(single, x[4])[0]
    np.testing.assert_allclose(step(batch, x[4])[2], expected, atol=1e-6)
    np.testing.assert_allclose(step(cpu, x[4])[0], expected, atol=1e-6)


def test_states_written_one_after_another_do_not_mix(tmp_path: Path) -> None:
    binding = memory_engine(tmp_path).bind(shapes(2, 8))
    fresh = binding.read_state(0)
    states = [tuple(part + value for part in fresh) for value in (1, 2)]
    for row, state in enumerate(states):
        binding.write_state(row, state)
    for row, state in enumerate(states):
        assert all(map(np.array_equal, binding.read_state(row), state))


def test_a_state_read_is_a_copy(tmp_path: Path) -> None:
    binding = memory_engine(tmp_path).bind(shapes(1, 8))
    step(binding, windows(1, 8)[0])
    state = binding.read_state(0)
    frozen = [part.copy() for part in state]
    step(binding, windows(2, 8)[1])
    binding.read_state(0)
    assert all(map(np.array_equal, state, frozen))


def test_a_row_that_is_only_padding_is_nobody_s(tmp_path: Path) -> None:
    binding = memory_engine(tmp_path).bind(shapes(3, 8))
    with pytest.raises(IndexError):
        binding.reset(3)


def test_a_fresh_binding_is_silent_whatever_the_warm_up_left(tmp_path: Path) -> None:
    binding = memory_engine(tmp_path).bind(shapes(4, 8))
    for row in range(4):
        assert not any(part.any() for part in binding.read_state(row))


def test_without_graphs_steps_are_queued_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x = windows(3, 8)
    with caplog.at_level(logging.INFO, "jetson"):
        plain = memory_engine(tmp_path, SimulatedCuda(graphs=False)).bind(shapes(1, 8))
    assert "one by one" in caplog.text
    assert not plain.recorded
    recorded = memory_engine(tmp_path).bind(shapes(1, 8))
    for window in x:
        assert np.array_equal(step(plain, window), step(recorded, window))


def test_a_recording_that_fails_costs_speed_not_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    binding = memory_engine(tmp_path, faults=Faults(capture=True)).bind(shapes(1, 8))
    assert "no CUDA graph" in caplog.text
    x = windows(4, 8)
    outputs = np.concatenate([step(binding, window)[0] for window in x])
    np.testing.assert_allclose(outputs, memory_numpy(x.reshape(-1, 80), 8), atol=2e-5)


def test_a_failed_run_leaves_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimulatedCuda()
    binding = memory_engine(tmp_path, cuda).bind(shapes(1, 8))
    x = windows(2, 8)
    step(binding, x[0])
    before = binding.read_state(0)

    def fail(graph: object, stream: int) -> None:
        raise RuntimeError("cudaGraphLaunch: an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        patch.setattr(cuda, "launch", fail)
        with pytest.raises(BackendError, match="illegal memory access"):
            step(binding, x[1])
    assert all(map(np.array_equal, binding.read_state(0), before))


def test_memory_that_is_not_there_is_a_backend_s_error(tmp_path: Path) -> None:
    backend = memory_engine(tmp_path, SimulatedCuda(memory=1000))
    with pytest.raises(BackendError, match="no memory left"):
        backend.bind(shapes(8, 16))


@GPUS
def test_a_binding_that_is_dropped_gives_everything_back(tmp_path: Path, gpu: object) -> None:
    cuda = SimulatedCuda(gpu)  # type: ignore[arg-type]
    backend = memory_engine(tmp_path, cuda)
    for _ in range(3):
        binding = backend.bind(shapes(3, 8))
        step(binding, windows(1, 8)[0])
        assert cuda.allocated
        del binding
        gc.collect()
        assert (cuda.allocated, cuda.queues) == ({}, {})


def test_bindings_of_one_engine_run_in_parallel_threads(tmp_path: Path) -> None:
    backend = memory_engine(tmp_path)
    streams = [windows(20, 8, seed) for seed in range(4)]
    bindings = [backend.bind(shapes(1, 8)) for _ in streams]
    results: dict[int, np.ndarray] = {}

    def run(i: int) -> None:
        results[i] = np.concatenate([step(bindings[i], window)[0] for window in streams[i]])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, x in enumerate(streams):
        np.testing.assert_allclose(results[i], memory_numpy(x.reshape(-1, 80), 8), atol=2e-5)


def test_a_plan_that_tensorrt_refuses_is_incompatible(tmp_path: Path) -> None:
    good = memory_engine(tmp_path)
    facts = GraphFacts(
        source="encoder.onnx", inputs=good.inputs, outputs=good.outputs, metadata=good.metadata
    )
    cuda = SimulatedCuda()
    other = simulated_tensorrt(cuda, "10.16.1")
    with pytest.raises(BundleIncompatible, match=r"not compatible.*engine build"):
        TensorRTBackend(cuda, other, good._plan, facts)
    with pytest.raises(BundleIncompatible, match="magicTag"):
        TensorRTBackend(cuda, other, b"\0" * 100, facts)


def test_an_engine_of_another_graph_is_refused(tmp_path: Path) -> None:
    good = memory_engine(tmp_path)
    facts = GraphFacts(
        source="encoder.onnx",
        inputs=good.inputs,
        outputs=[*good.outputs[:-1], replace(good.outputs[-1], name="elsewhere")],
        metadata=good.metadata,
    )
    cuda = SimulatedCuda()
    with pytest.raises(BundleIncompatible, match="elsewhere"):
        TensorRTBackend(cuda, simulated_tensorrt(cuda), good._plan, facts)


def test_a_closed_backend_hands_out_no_bindings(tmp_path: Path) -> None:
    backend = memory_engine(tmp_path)
    binding = backend.bind(shapes(1, 8))
    backend.close()
    step(binding, windows(1, 8)[0])  # but one that was handed out goes on
    with pytest.raises(BackendError, match="closed"):
        backend.bind(shapes(1, 8))


def test_the_hub_s_engine_runs_on_it_row_by_row(tmp_path: Path) -> None:
    """Rows that wait are kept, finish and reset at different times: the whole session protocol."""
    backend = memory_engine(tmp_path, frames=(16,))
    engine = Engine(backend, ModelSpec.of(backend, chunk_frames=(16,)))
    sounds = [windows(1, n, seed)[0] for n, seed in ((160, 1), (96, 2), (44, 3))]
    session = engine.session(3)
    got: list[list[np.ndarray]] = [[], [], []]
    position = [0, 0, 0]
    rng = np.random.default_rng(0)
    while any(p < len(x) for p, x in zip(position, sounds, strict=True)):
        for row, x in enumerate(sounds):
            n = int(rng.integers(0, 20))
            if position[row] < len(x):
                session.push(x[position[row] : position[row] + n], row)
                position[row] += n
                if position[row] >= len(x):
                    session.finish(row)
        for out in session.step():
            got[out.row].append(out.logprobs.copy())
    while outputs := session.step():
        for out in outputs:
            got[out.row].append(out.logprobs.copy())
    for row, x in enumerate(sounds):
        expected = memory_numpy(x, 16)
        np.testing.assert_allclose(np.concatenate(got[row]), expected, atol=2e-5)
