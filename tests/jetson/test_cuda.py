"""Opening CUDA without a driver, and the calls of cuda-python in order, on a stand-in of it."""

from __future__ import annotations

import ctypes
import gc
import sys
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import BackendError
from jetson.cuda import GraphsUnsupported, open_cuda
from jetson.cuda_pycuda import PyCuda
from jetson.cuda_python import CudaPython


class Error(IntEnum):
    cudaSuccess, cudaErrorMemoryAllocation, cudaErrorInsufficientDriver = 0, 2, 35


class StandIn(ModuleType):
    """cuda-python's runtime: returns (error, *values) and writes down what it was asked."""

    cudaError_t = Error
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="h2d", cudaMemcpyDeviceToHost="d2h", cudaMemcpyDeviceToDevice="d2d"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread-local")
    cudaHostAllocMapped = 2
    cudaStreamNonBlocking = 1

    def __init__(self, **answers: tuple[Any, ...]) -> None:
        super().__init__("runtime")
        self.calls: list[tuple[Any, ...]] = []
        self.memory = ctypes.create_string_buffer(4096)
        self.answers = {
            "cudaGetDeviceCount": (Error.cudaSuccess, 1),
            "cudaMalloc": (Error.cudaSuccess, 0x1000),
            "cudaStreamCreateWithFlags": (Error.cudaSuccess, 7),
            "cudaHostAlloc": (Error.cudaSuccess, ctypes.addressof(self.memory)),
            "cudaHostGetDevicePointer": (Error.cudaSuccess, 0x9000),
            "cudaStreamEndCapture": (Error.cudaSuccess, "graph"),
            "cudaGraphInstantiateWithFlags": (Error.cudaSuccess, "executable"),
            "cudaGetErrorString": (Error.cudaSuccess, b"what happened"),
        } | answers

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            return self.answers.get(name, (Error.cudaSuccess,))

        return call

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


def opened(
    monkeypatch: pytest.MonkeyPatch, **answers: tuple[Any, ...]
) -> tuple[CudaPython, StandIn]:
    runtime = StandIn(**answers)
    monkeypatch.setattr("jetson.cuda_python._runtime", lambda: runtime)
    return CudaPython(), runtime


def test_without_any_package_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendError, match=r"cuda-python: .*pycuda: "):
        open_cuda()


def test_a_package_that_is_not_known_is_refused() -> None:
    with pytest.raises(BackendError, match="cuda-python and pycuda"):
        open_cuda("cupy")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((Error.cudaErrorInsufficientDriver, 0), "no CUDA driver"),
        ((Error.cudaSuccess, 0), "no GPU"),
    ],
)
def test_a_machine_without_driver_or_gpu_is_told_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(BackendError, match=said):
        opened(monkeypatch, cudaGetDeviceCount=answer)


def test_memory_that_runs_out_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, _ = opened(monkeypatch, cudaMalloc=(Error.cudaErrorMemoryAllocation, 0))
    with pytest.raises(MemoryError, match="no memory left"):
        cuda.malloc(8)


def test_any_other_error_says_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, _ = opened(monkeypatch, cudaStreamSynchronize=(Error.cudaErrorInsufficientDriver,))
    with pytest.raises(RuntimeError, match="cudaStreamSynchronize: what happened"):
        cuda.synchronize(7)


def test_a_recording_is_ended_even_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, runtime = opened(monkeypatch)

    def fail() -> None:
        raise RuntimeError("TensorRT could not queue the step")

    with pytest.raises(RuntimeError, match="could not queue"):
        cuda.capture(7, fail)
    assert runtime.names()[-2:] == ["cudaStreamBeginCapture", "cudaStreamEndCapture"]


def test_a_recording_is_made_executable_and_only_that_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda, runtime = opened(monkeypatch)
    graph = cuda.capture(7, lambda: cuda.copy(1, 2, 3, 7))
    cuda.launch(graph, 7)
    cuda.release(graph)
    assert runtime.calls[1:] == [
        ("cudaStreamBeginCapture", 7, "thread-local"),
        ("cudaMemcpyAsync", 1, 2, 3, "d2d", 7),
        ("cudaStreamEndCapture", 7),
        ("cudaGraphInstantiateWithFlags", "graph", 0),
        ("cudaGraphDestroy", "graph"),
        ("cudaGraphLaunch", "executable", 7),
        ("cudaGraphExecDestroy", "executable"),
    ]


def test_host_memory_lives_as_long_as_an_array_that_shows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda, runtime = opened(monkeypatch)
    host = cuda.host_array((2, 3), np.dtype(np.float32))
    assert (host.device_address, host.array.shape, host.array.any()) == (0x9000, (2, 3), False)
    view = host.array[1]
    cuda.release(host)
    del host
    gc.collect()
    assert "cudaFreeHost" not in runtime.names()
    view[:] = 1
    del view
    gc.collect()
    assert runtime.calls[-1] == ("cudaFreeHost", ctypes.addressof(runtime.memory))


def test_everything_is_freed_by_its_own_call(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, runtime = opened(monkeypatch)
    stream, memory = cuda.stream(), cuda.malloc(16)
    cuda.release(memory)
    cuda.release(stream)
    assert runtime.calls[-2:] == [("cudaFree", 0x1000), ("cudaStreamDestroy", 7)]


def test_nothing_waits_for_the_whole_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from jetson.cuda_python import FUNCTIONS

    assert "cudaDeviceSynchronize" not in FUNCTIONS
    cuda, runtime = opened(monkeypatch)
    array = np.zeros(4, np.float32)
    cuda.to_device(0x1000, array, 7)
    cuda.to_host(array, 0x1000, 7)
    cuda.zero(0x1000, 16, 7)
    assert all(call[-1] == 7 for call in runtime.calls[1:])  # all on the stream


def test_pycuda_says_that_it_has_no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    class DriverError(Exception):
        pass

    context = SimpleNamespace(push=lambda: None, pop=lambda: None)
    device = SimpleNamespace(retain_primary_context=lambda: context)
    counted = type("Device", (), {"count": staticmethod(lambda: 1), "__new__": lambda *_: device})
    driver = ModuleType("pycuda.driver")
    vars(driver).update(
        init=lambda: None, Device=counted, Error=DriverError, MemoryError=DriverError
    )
    package = ModuleType("pycuda")
    package.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    cuda = PyCuda()
    with pytest.raises(GraphsUnsupported, match="cuda-python can"):
        cuda.capture(7, lambda: None)
