"""Who may import whom (docs/adr/0002), as static contracts and at run time.

The contracts themselves are in pyproject.toml. A contract that cannot break proves nothing, so each
is also run over a copy of the code with a forbidden import planted.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("edge_runtime", "training", "calibration", "jetson", "autotrain_cloud")
EXTRAS = (
    "onnxruntime",
    "soundfile",
    "soxr",
    "pyaudio",
    "kenlm",
    "cbor2",
    "cryptography",
    "paho",
    "prometheus_client",
)


def _lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    return subprocess.run(
        [*command, "--no-cache"], cwd=directory, capture_output=True, text=True, timeout=120
    )


def _python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_every_import_contract_is_kept() -> None:
    result = _lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("edge_runtime/oops.py", "import torch", "The hub stands alone"),
        ("edge_runtime/oops.py", "import training.config", "The hub stands alone"),
        ("edge_runtime/oops.py", "def f():\n    import onnxruntime", "one door"),
        ("edge_runtime/contract/oops.py", "import numpy", "standard library only"),
        ("edge_runtime/contract/oops.py", "import cbor2", "standard library only"),
        ("edge_runtime/agent/oops.py", "import cryptography", "one door"),
        ("edge_runtime/agent/oops.py", "import paho.mqtt.client", "one door"),
        ("autotrain_cloud/oops.py", "import training.config", "know only the hub"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(
    tmp_path: Path, module: str, line: str, contract: str
) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tmp_path / module).write_text(line + "\n")
    result = _lint_imports(tmp_path)
    assert result.returncode == 1
    broken = [line for line in result.stdout.splitlines() if " BROKEN" in line]
    assert any(contract in line for line in broken), result.stdout + result.stderr


def test_every_module_of_the_hub_imports_without_torch_or_any_extra() -> None:
    blocked = (*EXTRAS, "torch", "tensorrt", *PACKAGES[1:])
    result = _python(
        f"""
import importlib, pkgutil, sys
for name in {blocked!r}:
    sys.modules[name] = None
import edge_runtime
modules = [m.name for m in pkgutil.walk_packages(edge_runtime.__path__, "edge_runtime.")]
for module in modules:
    importlib.import_module(module)
for name in edge_runtime.__all__:
    getattr(edge_runtime, name)
print(len(modules))
"""
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 20


def test_importing_the_hub_or_listing_its_verbs_loads_neither_numpy_nor_a_spoke() -> None:
    result = _python(
        f"""
import sys
for name in {PACKAGES[1:]!r}:
    sys.modules[name] = None
import edge_runtime.contract
import edge_runtime.cli
assert "numpy" not in sys.modules
"""
    )
    assert result.returncode == 0, result.stderr


def test_the_contract_imports_where_nothing_is_installed() -> None:
    # -S leaves site-packages out, -I the directory of the script and the environment.
    result = _python(
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import edge_runtime.contract.bundle;"
        "import edge_runtime.contract.codec, edge_runtime.contract.topics",
        "-I",
        "-S",
    )
    assert result.returncode == 0, result.stderr


def test_every_folder_of_tests_is_a_package() -> None:
    """Without its __init__.py, tests/edge_runtime would be imported in place of edge_runtime."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_nothing_is_ever_unpickled() -> None:
    """docs/adr/0006. By syntax tree, so that prose may speak of it."""
    banned = {"pickle", "shelve", "dill", "joblib", "torch.load", "torch.save", "allow_pickle"}
    found = []
    for path in (p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import():
                    names = {alias.name for alias in node.names}
                case ast.ImportFrom():
                    names = {node.module or "", *(f"{node.module}.{a.name}" for a in node.names)}
                case ast.Attribute():
                    names = {ast.unparse(node)}
                case ast.keyword(value=ast.Constant(value=True)):
                    names = {node.arg or ""}
                case _:
                    continue
            found += [f"{path.relative_to(ROOT)}: {name}" for name in names & banned]
    assert found == []
