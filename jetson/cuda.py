"""What the runtime needs of CUDA: one device, one stream per binding, and nothing device-wide.

    cuda = open_cuda()                  # cuda-python, else pycuda; BackendError without a driver
    stream = cuda.stream()
    buffer = cuda.host_array((1, 80, 32), np.dtype(np.float32))
    graph = cuda.capture(stream, lambda: context.execute_async_v3(stream))
    cuda.launch(graph, stream)

Everything that takes a stream only queues work; `synchronize` waits for one stream.  Addresses are
plain integers, as TensorRT takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BackendError


class GraphsUnsupported(Exception):
    """This binding of CUDA cannot record graphs: queue the work at every step instead."""


@dataclass(frozen=True, slots=True)
class Device:
    """The GPU. What an engine was built for is compared with it."""

    name: str
    sm: str  # compute capability, "87"
    multiprocessors: int
    memory_bytes: int
    integrated: bool  # shares its memory with the CPU, as on every Jetson


@dataclass(frozen=True, slots=True)
class HostArray:
    """Memory of the CPU that the GPU can read and write where it lies."""

    array: NDArray[Any]
    device_address: int


class Cuda(Protocol):
    """One GPU. May be used from several threads, each with streams of its own."""

    name: str  # of the package behind it

    def device(self) -> Device: ...

    def stream(self) -> int:
        """A stream that waits for no other."""
        ...

    def synchronize(self, stream: int) -> None: ...

    def malloc(self, size: int) -> int:
        """Device memory of `size` bytes. Raises MemoryError if there is none."""
        ...

    def host_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
        """Page-locked zeros, mapped into the GPU's address space."""
        ...

    def release(self, handle: Any) -> None:
        """Frees what `malloc`, `stream` or `capture` gave, and lets go of a `host_array`.

        The memory of the latter is freed with the last numpy array that shows it.
        """
        ...

    def zero(self, address: int, size: int, stream: int) -> None: ...

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Between addresses of the device."""
        ...

    def to_device(self, target: int, source: NDArray[Any], stream: int) -> None:
        """`source` is contiguous and stays as it is until the stream got there."""
        ...

    def to_host(self, target: NDArray[Any], source: int, stream: int) -> None: ...

    def capture(self, stream: int, work: Callable[[], None]) -> Any:
        """Records what `work` queues on `stream`, which is not run. Raises GraphsUnsupported."""
        ...

    def launch(self, graph: Any, stream: int) -> None: ...


PACKAGES = ("cuda-python", "pycuda")


def open_cuda(package: str | None = None) -> Cuda:
    """The first GPU, through `package` or the first one installed.

    Raises BackendError if there is no package, no driver or no GPU.  Must come before anything of
    TensorRT is made: its Runtime ends the process where there is no driver.
    """
    if package is not None and package not in PACKAGES:
        raise BackendError(f"no CUDA package {package!r}: there are {' and '.join(PACKAGES)}")
    reasons = []
    for name in (package,) if package else PACKAGES:
        try:
            if name == "cuda-python":
                from jetson.cuda_python import CudaPython

                return CudaPython()
            from jetson.cuda_pycuda import PyCuda

            return PyCuda()
        except (ImportError, BackendError) as error:
            reasons.append(f"{name}: {' '.join(str(error).split())}")
    raise BackendError(
        f"no GPU can be used ({'; '.join(reasons)}); install cuda-python of the driver's CUDA "
        "version, and run on a machine with an NVIDIA driver"
    )
