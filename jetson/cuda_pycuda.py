"""`jetson.cuda.Cuda` by pycuda, and the only file that knows it.

It cannot record graphs, so steps are queued one by one; where cuda-python runs, it is preferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BackendError
from jetson.cuda import Device, GraphsUnsupported, HostArray


class PyCuda:
    """See `Cuda`."""

    name = "pycuda"

    def __init__(self) -> None:
        import pycuda.driver as driver

        self._driver: Any = driver
        try:
            driver.init()
            if not driver.Device.count():
                raise BackendError("the CUDA driver sees no GPU")
            self._device = driver.Device(0)
            # The context that TensorRT uses too; pycuda's default is one of its own.
            self._context = self._device.retain_primary_context()
        except driver.Error as error:
            raise BackendError(f"no CUDA driver: {error}") from error
        self._objects: dict[int, Any] = {}  # handle or address -> pycuda's object

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Contexts belong to threads in pycuda; streams of ours may be used from any."""
        self._context.push()
        try:
            yield
        except self._driver.MemoryError as error:
            raise MemoryError("the GPU has no memory left") from error
        except self._driver.Error as error:
            raise RuntimeError(str(error)) from error
        finally:
            self._context.pop()

    def device(self) -> Device:
        attribute = self._driver.device_attribute
        major, minor = self._device.compute_capability()
        return Device(
            name=self._device.name(),
            sm=f"{major}{minor}",
            multiprocessors=self._device.get_attribute(attribute.MULTIPROCESSOR_COUNT),
            memory_bytes=self._device.total_memory(),
            integrated=bool(self._device.get_attribute(attribute.INTEGRATED)),
        )

    def stream(self) -> int:
        with self._current():
            stream = self._driver.Stream(1)  # CU_STREAM_NON_BLOCKING
        self._objects[stream.handle] = stream
        return int(stream.handle)

    def synchronize(self, stream: int) -> None:
        with self._current():
            self._objects[stream].synchronize()

    def malloc(self, size: int) -> int:
        with self._current():
            memory = self._driver.mem_alloc(size)
        self._objects[int(memory)] = memory
        return int(memory)

    def host_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
        flags = self._driver.host_alloc_flags.DEVICEMAP
        with self._current():
            array = self._driver.pagelocked_zeros(shape, dtype, mem_flags=flags)
            return HostArray(array, int(array.base.get_device_pointer()))

    def release(self, handle: Any) -> None:
        if not isinstance(handle, HostArray):
            with self._current():
                del self._objects[handle]

    def zero(self, address: int, size: int, stream: int) -> None:
        with self._current():
            self._driver.memset_d8_async(address, 0, size, self._objects[stream])

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        with self._current():
            self._driver.memcpy_dtod_async(target, source, size, self._objects[stream])

    def to_device(self, target: int, source: NDArray[Any], stream: int) -> None:
        with self._current():
            self._driver.memcpy_htod_async(target, source, self._objects[stream])

    def to_host(self, target: NDArray[Any], source: int, stream: int) -> None:
        with self._current():
            self._driver.memcpy_dtoh_async(target, source, self._objects[stream])

    def capture(self, stream: int, work: Callable[[], None]) -> Any:
        raise GraphsUnsupported("pycuda cannot record CUDA graphs; cuda-python can")

    def launch(self, graph: Any, stream: int) -> None:
        raise GraphsUnsupported("pycuda cannot run CUDA graphs; cuda-python can")
