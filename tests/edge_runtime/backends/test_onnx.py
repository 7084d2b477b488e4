"""The onnxruntime binding: state stays inside, alternates between buffers, and can be taken out."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.backends import Shape, onnx, open_backend
from edge_runtime.backends.onnx import OnnxBackend, OnnxBinding, open_onnx
from edge_runtime.errors import BackendError, ConfigError
from tests.models import memory_model, memory_numpy, save

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> OnnxBackend:
    return open_onnx(save(memory_model(), tmp_path_factory.mktemp("m") / "encoder.onnx"))


def shapes(batch: int, frames: int) -> tuple[Shape, ...]:
    return (batch, 80, frames), (batch,), (batch, 1, 2, 3), (batch, 1, 1, 5), (batch,)


def windows(count: int, frames: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(-8, 4, (count, frames, 80)).astype(np.float32)


def step(binding: OnnxBinding, window: Array) -> Array:
    binding.features[:] = window.T
    return binding.run()[0].copy()


def test_the_state_stays_inside_from_run_to_run(backend: OnnxBackend) -> None:
    x = windows(5, 8)
    binding = backend.bind(shapes(1, 8))
    outputs = np.concatenate([step(binding, window) for window in x])
    np.testing.assert_allclose(outputs, memory_numpy(x.reshape(-1, 80), 8), atol=2e-5)


def test_the_result_is_one_buffer_overwritten_by_the_next_run(backend: OnnxBackend) -> None:
    binding = backend.bind(shapes(1, 8))
    binding.features[:] = windows(1, 8)[0].T
    first = binding.run()
    address = first.ctypes.data
    before = first.copy()
    second = binding.run()
    assert second.ctypes.data == address
    assert not np.array_equal(before, second)


def test_a_kept_row_can_be_run_again_with_the_same_result(backend: OnnxBackend) -> None:
    binding = backend.bind(shapes(2, 8))
    x = windows(4, 8)
    for window in x[:3]:
        binding.features[:] = window.T
        binding.run()
    before = binding.read_state(1)
    binding.features[:] = x[3].T
    first = binding.run().copy()
    binding.keep(1)
    assert all(map(np.array_equal, binding.read_state(1), before))
    second = binding.run()
    assert second[1].tobytes() == first[1].tobytes()
    assert second[0].tobytes() != first[0].tobytes()


def test_a_state_taken_out_can_go_on_in_another_row(backend: OnnxBackend) -> None:
    x = windows(6, 8)
    single, batch = backend.bind(shapes(1, 8)), backend.bind(shapes(3, 8))
    for window in x[:3]:
        step(single, window)
    batch.write_state(2, single.read_state(0))
    batch.features[2] = x[3].T
    np.testing.assert_allclose(batch.run()[2], step(single, x[3]), atol=1e-6)


def test_a_state_read_is_a_copy(backend: OnnxBackend) -> None:
    binding = backend.bind(shapes(1, 8))
    step(binding, windows(1, 8)[0])
    state = binding.read_state(0)
    frozen = [part.copy() for part in state]
    binding.run()
    binding.run()
    assert all(map(np.array_equal, state, frozen))


def test_a_reset_row_is_zero_on_either_side(backend: OnnxBackend) -> None:
    binding = backend.bind(shapes(2, 8))
    for _ in range(3):
        binding.features[:] = windows(1, 8)[0].T
        binding.run()
        binding.reset(0)
        assert not any(part.any() for part in binding.read_state(0))
        assert all(part.any() for part in binding.read_state(1))


def test_a_failed_run_leaves_the_state(
    backend: OnnxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    binding = backend.bind(shapes(1, 8))
    step(binding, windows(1, 8)[0])
    before = binding.read_state(0)

    def fail() -> None:
        raise RuntimeError("out of memory\nsecond line")

    with monkeypatch.context() as patch:
        patch.setattr(binding, "_runs", [fail, fail])
        with pytest.raises(BackendError, match=r"the graph failed: out of memory$"):
            binding.run()
    assert all(map(np.array_equal, binding.read_state(0), before))


def test_a_runtime_that_hides_its_inner_method_is_run_by_its_public_one(
    backend: OnnxBackend,
) -> None:
    class Wrapped:  # the session of another version: same methods, other insides
        def __init__(self, session: object) -> None:
            self.run_with_iobinding = session.run_with_iobinding  # type: ignore[attr-defined]

    binding, plain = backend.bind(shapes(1, 8)), backend.bind(shapes(1, 8))
    binding._runs = onnx._runs(Wrapped(backend._session), binding._bindings)
    for window in windows(3, 8):
        assert np.array_equal(step(binding, window), step(plain, window))


def test_bindings_of_one_backend_run_in_parallel_threads(backend: OnnxBackend) -> None:
    streams = [windows(30, 8, seed) for seed in range(4)]
    results: dict[int, Array] = {}

    def run(index: int) -> None:
        binding = backend.bind(shapes(1, 8))
        results[index] = np.concatenate([step(binding, window) for window in streams[index]])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, x in enumerate(streams):
        np.testing.assert_allclose(results[index], memory_numpy(x.reshape(-1, 80), 8), atol=2e-5)


def test_a_binding_outlives_its_backend(tmp_path: Path) -> None:
    backend = open_onnx(save(memory_model(), tmp_path / "encoder.onnx"))
    binding = backend.bind(shapes(1, 8))
    expected = step(backend.bind(shapes(1, 8)), windows(1, 8)[0])
    backend.close()
    assert step(binding, windows(1, 8)[0]).tobytes() == expected.tobytes()


def test_an_unknown_backend_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'abacus' .*onnxruntime"):
        open_backend("abacus", tmp_path / "encoder.onnx")


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path) -> None:
    path = save(memory_model(), tmp_path / "encoder.onnx")
    code = f"""
import sys
sys.modules["onnxruntime"] = None
from edge_runtime import BackendError, open_backend
try:
    open_backend("onnxruntime", {str(path)!r})
except BackendError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "vitconformer[edge]" in result.stdout


def test_waiting_for_audio_uses_no_cpu(tmp_path: Path) -> None:
    """Worker threads that spin would."""
    backend = open_onnx(save(memory_model(), tmp_path / "encoder.onnx"), threads=2)
    options = backend._session.get_session_options()
    for pool in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{pool}.allow_spinning") == "0"
