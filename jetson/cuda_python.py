"""`jetson.cuda.Cuda` by NVIDIA's cuda-python, and the only file that knows it."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BackendError
from jetson.cuda import Device, HostArray

# Every name of the package that is used; tests hold it against real versions of the package.
FUNCTIONS = (
    "cudaFree cudaFreeHost cudaGetDeviceCount cudaGetDeviceProperties cudaGetErrorString "
    "cudaGraphDestroy cudaGraphExecDestroy cudaGraphInstantiateWithFlags cudaGraphLaunch "
    "cudaHostAlloc cudaHostGetDevicePointer cudaMalloc cudaMemcpyAsync cudaMemsetAsync "
    "cudaStreamBeginCapture cudaStreamCreateWithFlags cudaStreamDestroy cudaStreamEndCapture "
    "cudaStreamSynchronize"
).split()
CONSTANTS = ("cudaHostAllocMapped", "cudaStreamNonBlocking")
ENUMS = {
    "cudaError_t": ("cudaSuccess", "cudaErrorMemoryAllocation"),
    "cudaMemcpyKind": (
        "cudaMemcpyDeviceToDevice",
        "cudaMemcpyDeviceToHost",
        "cudaMemcpyHostToDevice",
    ),
    "cudaStreamCaptureMode": ("cudaStreamCaptureModeThreadLocal",),
}


def _runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError:  # before cuda-python 12.6
        from cuda import cudart as runtime
    return runtime


class CudaPython:
    """See `Cuda`."""

    name = "cuda-python"

    def __init__(self) -> None:
        self._rt = _runtime()
        try:
            count = self._call("cudaGetDeviceCount")
        except RuntimeError as error:  # also cuda-python's own, when it finds no libcuda.so
            raise BackendError(f"no CUDA driver: {error}") from error
        if not count:
            raise BackendError("the CUDA driver sees no GPU")
        self._kinds: dict[Any, str] = {}  # what a handle is, for `release`

    def _call(self, function: str, *arguments: Any) -> Any:
        error, *values = getattr(self._rt, function)(*arguments)
        if error != self._rt.cudaError_t.cudaSuccess:
            if error == self._rt.cudaError_t.cudaErrorMemoryAllocation:
                raise MemoryError(f"{function}: the GPU has no memory left")
            _, text = self._rt.cudaGetErrorString(error)
            raise RuntimeError(f"{function}: {text.decode()}")
        return values[0] if len(values) == 1 else tuple(values)

    def device(self) -> Device:
        found = self._call("cudaGetDeviceProperties", 0)
        return Device(
            name=found.name.decode().rstrip("\0"),
            sm=f"{found.major}{found.minor}",
            multiprocessors=found.multiProcessorCount,
            memory_bytes=found.totalGlobalMem,
            integrated=bool(found.integrated),
        )

    def stream(self) -> int:
        stream = int(self._call("cudaStreamCreateWithFlags", self._rt.cudaStreamNonBlocking))
        self._kinds[stream] = "cudaStreamDestroy"
        return stream

    def synchronize(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def malloc(self, size: int) -> int:
        address = int(self._call("cudaMalloc", size))
        self._kinds[address] = "cudaFree"
        return address

    def host_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
        size = prod(shape) * dtype.itemsize
        host = int(self._call("cudaHostAlloc", size, self._rt.cudaHostAllocMapped))
        address = int(self._call("cudaHostGetDevicePointer", host, 0))
        memory = (ctypes.c_byte * size).from_address(host)
        weakref.finalize(memory, self._rt.cudaFreeHost, host)  # numpy's views keep `memory`
        array: NDArray[Any] = np.frombuffer(memoryview(memory), dtype).reshape(shape)
        array[...] = 0
        return HostArray(array, address)

    def release(self, handle: Any) -> None:
        if isinstance(handle, int):
            getattr(self._rt, self._kinds.pop(handle))(handle)
        elif not isinstance(handle, HostArray):
            self._rt.cudaGraphExecDestroy(handle)

    def zero(self, address: int, size: int, stream: int) -> None:
        self._call("cudaMemsetAsync", address, 0, size, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def to_device(self, target: int, source: NDArray[Any], stream: int) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, stream)

    def to_host(self, target: NDArray[Any], source: int, stream: int) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, stream)

    def capture(self, stream: int, work: Callable[[], None]) -> Any:
        # Thread-local: what other bindings do in their threads does not end this capture.
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            self._rt.cudaStreamEndCapture(stream)  # else the stream stays unusable
            raise
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._rt.cudaGraphDestroy(graph)

    def launch(self, graph: Any, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)
