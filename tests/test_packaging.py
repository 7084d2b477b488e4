"""What pip sees: names, extras, entry points, and what a built wheel carries."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution, entry_points, packages_distributions
from pathlib import Path

import pytest

import edge_runtime
from edge_runtime import cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGES = ("edge_runtime", "training", "calibration", "jetson", "autotrain_cloud")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

LOCKS = sorted((ROOT / "constraints").glob("*-py3*.txt"))


def _locked(lock: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9.-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without a network from a copy, so that no build/ appears in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # What must not be picked up: data beside the code, and tests.
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()
    (source / "training" / "stray.bin").touch()
    result = subprocess.run(
        [sys.executable, "-c", "import setuptools.build_meta as b; b.build_wheel('dist')"],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    [path] = (source / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_no_other_distribution_claims_our_names() -> None:
    """Pip overwrites files of equal names without a word (docs/adr/0001)."""
    owners = packages_distributions()
    claims = {name: set(owners.get(name, ())) - {"vitconformer"} for name in PACKAGES}
    assert claims == {name: set() for name in PACKAGES}


def test_every_place_that_names_the_version_names_the_same() -> None:
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert distribution("vitconformer").version == edge_runtime.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {edge_runtime.__version__}\n" in citation


def test_a_device_gets_no_torch() -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    device = [*project["dependencies"], *extras["edge"], *extras["mic"], *extras["lm"]]
    assert not [requirement for requirement in device if re.match("torch|onnx[^r]", requirement)]
    for lock in LOCKS:
        if lock.name.startswith("edge"):
            assert not {"torch", "triton"} & _locked(lock), lock.name


def test_every_requirement_of_ours_is_in_the_lock_of_its_target() -> None:
    """A lock that was not compiled after pyproject.toml changed would install too little."""
    extras = PYPROJECT["project"]["optional-dependencies"]

    def names(extra: str) -> set[str]:
        applies = [r for r in extras[extra] if "python_version" not in r]
        return {re.split(r"[<>=;\[ ]", r)[0].lower() for r in applies} - {"vitconformer", "torch"}

    for lock in LOCKS:
        wanted = ["edge"] if lock.name.startswith("edge") else extras
        assert set().union(*map(names, wanted)) <= _locked(lock), lock.name


def test_every_pin_of_a_lock_carries_a_hash() -> None:
    for lock in LOCKS:
        text = lock.read_text(encoding="utf-8")
        pins = re.findall(r"^\S+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})?", text, re.MULTILINE)
        assert pins
        assert all(pins), lock.name


@pytest.mark.parametrize("group", ["vitconformer.commands", "vitconformer.backends"])
def test_every_entry_point_names_something_that_exists(group: str) -> None:
    declared = PYPROJECT["project"]["entry-points"][group]
    installed = {point.name: point for point in entry_points(group=group)}
    for name, value in declared.items():
        assert installed[name].value == value, f"run pip install -e . again: {name}"
        point = installed[name]
        assert importlib.util.find_spec(point.module), value
        assert callable(point.load()), value
        [extra] = point.extras
        assert extra in PYPROJECT["project"]["optional-dependencies"], value


def test_every_verb_of_a_spoke_is_registered() -> None:
    declared = PYPROJECT["project"]["entry-points"]["vitconformer.commands"]
    modules = {value.split(":")[0] for value in declared.values()}
    files = {f"training.commands.{path.stem}" for path in (ROOT / "training/commands").glob("*.py")}
    assert files - modules == {"training.commands.__init__"}


def test_the_console_script_is_the_module_s_main() -> None:
    [script] = [p for p in entry_points(group="console_scripts") if p.name == "vitconformer"]
    assert script.load() is cli.main


def test_setup_py_is_a_shim() -> None:
    code = (ROOT / "setup.py").read_text(encoding="utf-8").split('"""')[2]
    assert code.split() == ["from", "setuptools", "import", "setup", "setup()"]


def test_the_wheel_carries_the_packages_their_data_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    info = f"vitconformer-{edge_runtime.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {*PACKAGES, info}
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    recipes = {f"training/recipes/{path.name}" for path in (ROOT / "training/recipes").iterdir()}
    assert recipes
    assert {name for name in names if name.startswith("training/recipes/")} == recipes
    code = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (path.parent / "__init__.py").exists()
    }
    assert {name for name in names if name.endswith(".py")} == code
    assert f"{info}/licenses/LICENSE" in names
    assert "training/stray.bin" not in names


def test_the_wheel_says_who_may_install_it(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read(f"vitconformer-{edge_runtime.__version__}.dist-info/METADATA").decode()
    assert "\nRequires-Python: >=3.10\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
