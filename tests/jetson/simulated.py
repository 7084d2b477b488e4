"""A simulated CUDA and a simulated TensorRT, which compute with onnxruntime.

They say nothing about speed or about what TensorRT accepts.  They are stricter than the real ones
where our own mistakes would hide:

* work that is queued on a stream is not done before the stream is waited for, so a missing wait
  reads old bytes;
* every address must lie inside memory that was allocated and not freed;
* inside a recording nothing may be allocated or waited for; a recording replays the addresses it
  saw;
* an input and an output may not overlap;
* nothing has a name that `jetson.trt.USED` does not list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from jetson.cuda import Device, GraphsUnsupported, HostArray

ALIGNMENT = 256  # bytes, of a tensor's address

ORIN = Device("Orin (simulated)", "87", 8, 8 << 30, integrated=True)
DISCRETE = Device("GPU (simulated)", "90", 132, 80 << 30, integrated=False)


@dataclass
class SimulatedCuda:
    """`jetson.cuda.Cuda` over ordinary memory."""

    gpu: Device = ORIN
    graphs: bool = True
    memory: int = 1 << 30  # bytes that can be allocated
    name: str = "simulated"
    allocated: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    queues: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    recordings: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def device(self) -> Device:
        return self.gpu

    def stream(self) -> int:
        self.count("stream")
        stream = 1_000_000 + self.counts["stream"]
        self.queues[stream] = []
        return stream

    def synchronize(self, stream: int) -> None:
        assert stream not in self.recordings, "waiting inside a recording"
        self.count("synchronize")
        queue, self.queues[stream] = self.queues[stream], []
        for work in queue:
            work()

    def _allocate(self, size: int) -> NDArray[np.uint8]:
        assert not self.recordings, "allocating inside a recording"
        if sum(block.nbytes for block in self.allocated.values()) + size > self.memory:
            raise MemoryError("the GPU has no memory left")
        block = np.full(size + ALIGNMENT, 0xA5, np.uint8)  # what is not written is not zero
        block = block[-block.ctypes.data % ALIGNMENT :][:size]
        self.allocated[block.ctypes.data] = block
        return block

    def malloc(self, size: int) -> int:
        assert size > 0
        return int(self._allocate(size).ctypes.data)

    def host_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
        block = self._allocate(max(1, prod(shape) * dtype.itemsize))
        block[:] = 0
        array = block[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        return HostArray(array, int(block.ctypes.data))

    def release(self, handle: Any) -> None:
        if isinstance(handle, HostArray):
            del self.allocated[handle.device_address]
        elif isinstance(handle, int) and handle in self.queues:
            del self.queues[handle]
        elif isinstance(handle, int):
            del self.allocated[handle]

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """Memory by address, or an AssertionError: outside of anything, or freed."""
        for start, block in self.allocated.items():
            if start <= address and address + size <= start + block.nbytes:
                return block[address - start :][:size]
        raise AssertionError(f"{size} bytes at {address:#x} are nobody's")

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        self.recordings.get(stream, self.queues[stream]).append(work)

    def zero(self, address: int, size: int, stream: int) -> None:
        self.queue(stream, lambda: self.view(address, size).fill(0))

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        def work() -> None:
            self.view(target, size)[:] = self.view(source, size)

        self.queue(stream, work)

    def to_device(self, target: int, source: NDArray[Any], stream: int) -> None:
        assert source.flags.c_contiguous

        def work() -> None:
            self.view(target, source.nbytes)[:] = source.reshape(-1).view(np.uint8)

        self.count("to_device")
        self.queue(stream, work)

    def to_host(self, target: NDArray[Any], source: int, stream: int) -> None:
        assert target.flags.c_contiguous

        def work() -> None:
            target.reshape(-1).view(np.uint8)[:] = self.view(source, target.nbytes)

        self.count("to_host")
        self.queue(stream, work)

    def capture(self, stream: int, work: Callable[[], None]) -> Any:
        if not self.graphs:
            raise GraphsUnsupported("simulated without graphs")
        self.recordings[stream] = []
        try:
            work()
        finally:
            recorded = self.recordings.pop(stream)
        self.count("capture")
        return tuple(recorded)

    def launch(self, graph: Any, stream: int) -> None:
        self.count("launch")
        for work in graph:
            self.queue(stream, work)


class Severity(Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


class DataType(Enum):
    FLOAT, HALF, INT32, INT64, BOOL = range(5)


class Flag(int):
    """An enumerator: `1 << int(flag)` as pybind's allow."""


_DTYPES = {
    "tensor(float)": DataType.FLOAT,
    "tensor(float16)": DataType.HALF,
    "tensor(int64)": DataType.INT64,
    "tensor(int32)": DataType.INT32,
}
_NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT64: np.int64,
    DataType.INT32: np.int32,
}
_MAGIC = b"simulated plan\n"


@dataclass
class Faults:
    """What goes wrong on purpose."""

    out_of_memory: bool = False  # while building
    unsupported: str = ""  # what the parser says
    capture: bool = False  # enqueueing fails inside a recording
    enqueue: bool = False  # enqueueing fails outside one
    wrong: Mapping[str, float] = field(default_factory=dict)  # mode -> what is added to outputs
    seconds: Mapping[str, float] = field(default_factory=dict)  # mode -> how long a step takes


def simulated_tensorrt(
    cuda: SimulatedCuda, version: str = "10.3.0", faults: Faults | None = None
) -> Any:
    """A module like `tensorrt`, of that version, running on `cuda`."""
    return _TensorRT(cuda, version, faults or Faults()).module()


class _TensorRT:
    def __init__(self, cuda: SimulatedCuda, version: str, faults: Faults) -> None:
        self.cuda, self.version, self.faults = cuda, version, faults
        self.major = int(version.split(".")[0])

    def module(self) -> Any:
        simulation = self

        class ILogger:
            INTERNAL_ERROR, ERROR = Severity.INTERNAL_ERROR, Severity.ERROR
            WARNING = Severity.WARNING

            def __init__(self) -> None:
                pass

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self._logger = logger

            def deserialize_cuda_engine(self, plan: bytes) -> Any:
                if not plan.startswith(_MAGIC):
                    self._logger.log(Severity.ERROR, "Serialization assertion magicTag failed")
                    return None
                header, _, model = plan[len(_MAGIC) :].partition(b"\n")
                facts = json.loads(header)
                if facts["version"] != simulation.version:
                    self._logger.log(Severity.ERROR, "The engine plan file is not compatible")
                    return None
                return ICudaEngine(simulation, facts, model)

        class Builder:
            def __init__(self, logger: Any) -> None:
                self._logger = logger

            def create_network(self, flags: int = 0) -> Any:
                return INetworkDefinition(flags)

            def create_builder_config(self) -> Any:
                return IBuilderConfig()

            def create_optimization_profile(self) -> Any:
                return IOptimizationProfile()

            def build_serialized_network(self, network: Any, config: Any) -> Any:
                if simulation.faults.out_of_memory:
                    self._logger.log(Severity.ERROR, "Out of memory: tactic needs 512 MiB")
                    return None
                config._cache._entries += b"."
                facts = {
                    "version": simulation.version,
                    "profiles": [profile._shapes for profile in config._profiles],
                    "mode": config._mode(network),
                }
                return _MAGIC + json.dumps(facts).encode() + b"\n" + network._model

        flags: dict[str, dict[str, Flag]] = {
            "NetworkDefinitionCreationFlag": {},
            "BuilderFlag": {},
        }
        if simulation.major < 11:
            flags["NetworkDefinitionCreationFlag"]["EXPLICIT_BATCH"] = Flag(0)
            flags["BuilderFlag"] = {"FP16": Flag(0), "INT8": Flag(1)}
        if simulation.major == 10:
            flags["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"] = Flag(1)

        class OnnxParser:
            def __init__(self, network: Any, logger: Any) -> None:
                self._network, self._errors = network, []

            @property
            def num_errors(self) -> int:
                return len(self._errors)

            def get_error(self, i: int) -> Any:
                return SimpleNamespace(desc=lambda: self._errors[i])

            def parse(self, model: bytes) -> bool:
                try:
                    if simulation.faults.unsupported:
                        raise RuntimeError(simulation.faults.unsupported)
                    session = _session(model)
                except Exception as error:
                    self._errors.append(str(error))
                    return False
                self._network._model = model
                self._network._inputs = [node.name for node in session.get_inputs()]
                return True

        return SimpleNamespace(
            __version__=simulation.version,
            Builder=Builder,
            BuilderFlag=SimpleNamespace(**flags["BuilderFlag"]),
            ILogger=ILogger,
            LayerInformationFormat=SimpleNamespace(JSON="json"),
            MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
            NetworkDefinitionCreationFlag=SimpleNamespace(**flags["NetworkDefinitionCreationFlag"]),
            OnnxParser=OnnxParser,
            ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
            Runtime=Runtime,
            TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
            TensorLocation=SimpleNamespace(DEVICE="device"),
        )


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._flags, self._model, self._inputs = flags, b"", []

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, i: int) -> Any:
        return SimpleNamespace(name=self._inputs[i])


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._entries = content

    def serialize(self) -> bytes:
        return self._entries


class IBuilderConfig:
    profiling_verbosity: Any = None

    def __init__(self) -> None:
        self._flags: list[int] = []
        self._profiles: list[Any] = []
        self._cache = ITimingCache(b"")

    def set_flag(self, flag: Any) -> None:
        self._flags.append(int(flag))

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        assert size > 0

    def create_timing_cache(self, content: bytes) -> Any:
        return ITimingCache(bytes(content))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def _mode(self, network: Any) -> str:
        return "+".join(["strong" if network._flags & 2 else "weak", *map(str, self._flags)])


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self._shapes[name] = [list(low), list(best), list(high)]


class ICudaEngine:
    def __init__(self, simulation: _TensorRT, facts: Mapping[str, Any], model: bytes) -> None:
        self._simulation, self._facts = simulation, facts
        self._session = _session(model)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._modes = {node.name: "input" for node in inputs}
        self._modes |= {node.name: "output" for node in outputs}
        self._dtypes = {node.name: _DTYPES[node.type] for node in (*inputs, *outputs)}
        if simulation.major < 10:  # whose parser turns INT64 into INT32
            self._dtypes = {
                name: DataType.INT32 if kind is DataType.INT64 else kind
                for name, kind in self._dtypes.items()
            }
        self._taken: set[int] = set()

    @property
    def num_io_tensors(self) -> int:
        return len(self._modes)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._facts["profiles"])

    def get_tensor_name(self, i: int) -> str:
        return list(self._modes)[i]

    def get_tensor_mode(self, name: str) -> Any:
        return self._modes[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._dtypes[name]

    def get_tensor_location(self, name: str) -> Any:
        return "device"

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self._facts["profiles"][profile][name]

    def create_execution_context(self) -> Any:
        return IExecutionContext(self)

    def create_engine_inspector(self) -> Any:
        return EngineInspector(self)


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, form: Any) -> str:
        return json.dumps({"Layers": [], "simulated": self._engine._facts["mode"]})


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._cuda = engine._simulation.cuda
        self._faults = engine._simulation.faults
        self._profile = -1
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        if self._engine._simulation.major < 10 and profile in self._engine._taken:
            return False
        self._engine._taken.add(profile)
        self._profile = profile
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        feeds = {
            name: np.zeros(shape, self._host_dtype(name)) for name, shape in self._shapes.items()
        }
        if len(feeds) < len([m for m in self._engine._modes.values() if m == "input"]):
            return ["an input without a shape"]
        names = [node.name for node in self._engine._session.get_outputs()]
        results = self._engine._session.run(None, feeds)
        self._shapes |= {name: result.shape for name, result in zip(names, results, strict=True)}
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        if address % ALIGNMENT:
            return False
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        recording = stream in self._cuda.recordings
        if (self._faults.capture and recording) or (self._faults.enqueue and not recording):
            if recording:
                raise RuntimeError("operation not permitted when stream is capturing")
            return False
        addresses = dict(self._addresses)
        assert set(addresses) == set(self._engine._modes), "a tensor has no address"
        self._check_apart(addresses)
        self._cuda.queue(stream, lambda: self._compute(addresses))
        return True

    def _host_dtype(self, name: str) -> Any:
        nodes = (*self._engine._session.get_inputs(), *self._engine._session.get_outputs())
        return next(_NUMPY[_DTYPES[node.type]] for node in nodes if node.name == name)

    def _memory(self, name: str, address: int) -> NDArray[Any]:
        dtype, shape = np.dtype(_NUMPY[self._engine._dtypes[name]]), self._shapes[name]
        return self._cuda.view(address, prod(shape) * dtype.itemsize).view(dtype).reshape(shape)

    def _check_apart(self, addresses: Mapping[str, int]) -> None:
        spans = {
            name: (address, address + self._memory(name, address).nbytes)
            for name, address in addresses.items()
        }
        for one, (start, end) in spans.items():
            for other, (begin, stop) in spans.items():
                assert one == other or end <= begin or stop <= start, f"{one} overlaps {other}"

    def _compute(self, addresses: Mapping[str, int]) -> None:
        import time

        mode = self._engine._facts["mode"]
        time.sleep(self._faults.seconds.get(mode, 0.0))
        modes = self._engine._modes
        feeds = {
            name: self._memory(name, at).astype(self._host_dtype(name))
            for name, at in addresses.items()
            if modes[name] == "input"
        }
        names = [name for name in addresses if modes[name] == "output"]
        for name, result in zip(names, self._engine._session.run(names, feeds), strict=True):
            memory = self._memory(name, addresses[name])
            memory[...] = result
            if np.issubdtype(memory.dtype, np.floating) and mode in self._faults.wrong:
                memory[...] += (
                    np.random.default_rng(1)
                    .normal(0, self._faults.wrong[mode], memory.shape)
                    .astype(memory.dtype)
                )


def _session(model: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # Every pair computed as it stands: what TensorRT promises for explicit quantisation.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
