"""The command line as a user meets it: a process with arguments, two streams and an exit code."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import edge_runtime
from edge_runtime import cli
from tests.edge_runtime.command_line import ROOT, vitconformer


def install(site: Path, module: str, source: str, *, extra: str, needs: str) -> None:
    """Puts a distribution that brings a verb where importlib.metadata finds it."""
    (site / f"{module}.py").write_text(source)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n"
        f"Provides-Extra: {extra}\nRequires-Dist: {needs}; extra == '{extra}'\n"
        f"Requires-Dist: never-there; python_version < '3' and extra == '{extra}'\n"
    )
    (info / "entry_points.txt").write_text(
        f"[vitconformer.commands]\n{module} = {module} [{extra}]\n"
    )


GREET = """
NAME, HELP = "greet", "say hello"
def configure(parser): parser.add_argument("name")
def run(args):
    if args.name == "pipe": raise BrokenPipeError
    print("hello", args.name)
    return 0
"""


def test_help_lists_every_verb_and_fits_on_a_screen() -> None:
    done = vitconformer("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for verb in cli.BUILTINS:
        assert f"\n  {verb} " in done.stdout
    assert len(done.stdout.splitlines()) < 30
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_no_verb_at_all_is_wrong_usage_but_helpful() -> None:
    done = vitconformer()
    assert done.returncode == 2
    assert "transcribe" in done.stdout


def test_the_version_is_printed() -> None:
    assert vitconformer("--version").stdout == f"vitconformer {edge_runtime.__version__}\n"


@pytest.mark.parametrize("verb", cli.BUILTINS)
def test_every_verb_explains_itself_without_its_heavy_packages(verb: str) -> None:
    code = (
        "import sys\n"
        "for name in ('numpy', 'onnxruntime', 'soundfile'): sys.modules[name] = None\n"
        f"from edge_runtime.cli import main; sys.exit(main(['{verb}', '--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: vitconformer {verb} ")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("transcibe", "unknown command 'transcibe'; did you mean 'transcribe'?"),
        ("xyzzy", "unknown command 'xyzzy'; see vitconformer --help"),
        ("--colour", "unknown option '--colour'; see vitconformer --help"),
    ],
)
def test_an_unknown_verb_is_wrong_usage_with_a_suggestion(argument: str, words: str) -> None:
    done = vitconformer(argument)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"vitconformer: error: {words}\n"


def test_a_wrong_option_is_wrong_usage() -> None:
    done = vitconformer("transcribe", "a.wav", "--beam", "0")
    assert done.returncode == 2
    assert "argument --beam: invalid whole number from 1 value: '0'" in done.stderr


def test_a_verb_of_another_distribution_runs(tmp_path: Path) -> None:
    install(tmp_path, "greet", GREET, extra="loud", needs="numpy")
    assert "  greet        say hello\n" in vitconformer("--help", path=tmp_path).stdout
    done = vitconformer("greet", "Ada", path=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello Ada\n", "")


def test_a_verb_whose_extra_is_missing_is_listed_with_what_brings_it(tmp_path: Path) -> None:
    install(tmp_path, "greet", "raise SystemError('imported')", extra="loud", needs="not-there>=1")
    listed = vitconformer("--help", path=tmp_path)
    assert "  greet        needs: pip install 'greet[loud]'\n" in listed.stdout
    done = vitconformer("greet", "Ada", path=tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr == "vitconformer: error: 'greet' is not installed: pip install 'greet[loud]'\n"
    )


def test_a_broken_verb_of_another_distribution_hides_no_other(tmp_path: Path) -> None:
    install(tmp_path, "greet", "1 / 0", extra="loud", needs="numpy")
    listed = vitconformer("--help", path=tmp_path)
    assert listed.returncode == 0
    assert "  greet        broken: division by zero\n" in listed.stdout
    assert "transcribe" in listed.stdout


def test_no_other_distribution_can_replace_a_verb_of_ours(tmp_path: Path) -> None:
    install(tmp_path, "inspect_", "1 / 0", extra="loud", needs="numpy")
    points = tmp_path / "inspect_-1.0.dist-info" / "entry_points.txt"
    points.write_text("[vitconformer.commands]\ntranscribe = inspect_\n")
    assert vitconformer("transcribe", "--help", path=tmp_path).returncode == 0
    assert "broken" not in vitconformer("--help", path=tmp_path).stdout


def test_an_extra_that_contains_another_extra_of_its_own_needs_both(tmp_path: Path) -> None:
    install(tmp_path, "greet", GREET, extra="loud", needs="greet[quiet]")
    metadata = tmp_path / "greet-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Dist: not-there; extra == 'quiet'\n")
    (dist,) = importlib.metadata.distributions(name="greet", path=[str(tmp_path)])
    assert not cli.is_installed(dist, "loud")
    metadata.write_text(metadata.read_text().replace("not-there", "NumPy"))
    (dist,) = importlib.metadata.distributions(name="greet", path=[str(tmp_path)])
    assert cli.is_installed(dist, "loud")


def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path: Path) -> None:
    install(tmp_path, "greet", GREET, extra="loud", needs="numpy")
    done = vitconformer("greet", "pipe", path=tmp_path)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    install(
        tmp_path,
        "greet",
        GREET.replace("print(", "import soundfish; print("),
        extra="loud",
        needs="numpy",
    )
    done = vitconformer("greet", "Ada", path=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "vitconformer: error: package soundfish is not installed: "
        "pip install 'vitconformer[edge]'\n"
    )


def test_starting_costs_no_heavy_import() -> None:
    code = (
        "import sys; from edge_runtime.cli import main; main(['--version']);"
        "heavy = {'numpy', 'onnxruntime', 'soundfile', 'soxr', 'torch', 'pyaudio'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"
