"""What is used of TensorRT and CUDA exists in the real packages, and nothing else is used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from edge_runtime.errors import BackendError
from jetson import cuda_python, trt
from tests.jetson import api_surface, simulated

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("version", api_surface.VERSIONS)
def test_the_real_bindings_have_every_name_that_is_used(version: str) -> None:
    if sys.platform != "linux":
        pytest.skip("the bindings' wheels are looked at on Linux only")
    try:
        lacking = api_surface.missing(version)
    except api_surface.Unavailable as reason:
        pytest.skip(str(reason))
    assert lacking == []


def test_a_name_that_no_version_has_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(api_surface.USED, "ICudaEngine", ("num_bindings", "num_io_tensors"))
    try:
        assert api_surface.missing("11.4.0.106") == ["ICudaEngine.num_bindings"]
    except api_surface.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("version", ["8.6.2", "10.3.0", "11.4.0"])
def test_the_simulated_tensorrt_has_exactly_the_names_that_are_checked(version: str) -> None:
    """So the runtime, which runs on it in these tests, uses no other."""
    module = simulated.simulated_tensorrt(simulated.SimulatedCuda(), version)
    expected = {owner: set(names) for owner, names in api_surface.wanted(version).items()}
    inner = ("INetworkDefinition", "IBuilderConfig", "IOptimizationProfile", "ITimingCache")
    inner += ("ICudaEngine", "IExecutionContext", "EngineInspector")
    assert set(vars(module)) == expected.pop("")
    for owner in ("ITensor", "ParserError"):
        del expected[owner]  # plain namespaces with their one attribute
    for owner, names in expected.items():
        thing = getattr(simulated, owner) if owner in inner else getattr(module, owner)
        assert {name for name in dir(thing) if not name.startswith("_")} == names, owner


def test_every_call_of_cuda_python_is_in_its_list() -> None:
    tree = ast.parse(inspect.getsource(cuda_python))
    named = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("cuda")
    }
    named |= {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("cuda")
        and node.value.isalpha()
    }
    listed = {*cuda_python.FUNCTIONS, *cuda_python.CONSTANTS, *cuda_python.ENUMS}
    listed |= {name for names in cuda_python.ENUMS.values() for name in names}
    assert named == listed


def test_cuda_python_has_every_name_that_is_used() -> None:
    runtime = pytest.importorskip(
        "cuda.bindings.runtime", reason="cuda-python is not installed: pip install cuda-bindings"
    )
    lacking = [
        n for n in (*cuda_python.FUNCTIONS, *cuda_python.CONSTANTS) if not hasattr(runtime, n)
    ]
    for owner, names in cuda_python.ENUMS.items():
        lacking += [name for name in names if not hasattr(getattr(runtime, owner), name)]
    assert lacking == []


def test_the_spoke_imports_nothing_of_nvidia_s_before_it_is_asked() -> None:
    code = """
import importlib, pkgutil, sys
for name in ("tensorrt", "cuda", "pycuda", "polygraphy"):
    sys.modules[name] = None
import jetson
for module in pkgutil.walk_packages(jetson.__path__, "jetson."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_tensorrt_that_is_missing_or_old_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="python3-libnvinfer"):
        trt.load()
    old = ModuleType("tensorrt")
    old.__version__ = "8.4.3.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(BackendError, match=r"8\.4\.3\.1 is too old"):
        trt.load()


def test_a_type_that_no_contract_uses_is_refused() -> None:
    with pytest.raises(BackendError, match="FP8"):
        trt.dtype_of(SimpleNamespace(name="FP8"))
