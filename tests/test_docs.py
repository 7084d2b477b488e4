"""Documentation that is checked does not rot: verbs, targets, links, versions, extras, snippets."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import edge_runtime
from edge_runtime import cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SKIP = {".git", ".venv", "build", "dist", "data", "runs"}
TEXT = {".py", ".md", ".toml", ".txt", ".in", ".cff", ".json", ".cfg", ".yml", ""}


def _files(*suffixes: str) -> list[Path]:
    """Our files, without environments, caches and anything built."""
    found = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        hidden = any(p.startswith(".") and p not in (".ci", ".gitignore") for p in parts)
        skipped = SKIP & set(parts) or parts[0] == "loop"  # of `make loop`
        if path.is_file() and not hidden and not skipped and path.suffix in suffixes:
            found.append(path)
    return found


MARKDOWN = _files(".md")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def _anchors(markdown: str) -> set[str]:
    """GitHub's names of headings: lower case, punctuation dropped, spaces to hyphens."""
    headings = re.findall(r"^#+ +(.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_verb_is_in_the_readme_and_every_verb_of_the_readme_exists() -> None:
    table = re.findall(r"^\| `([a-z]+)` \|", README, re.MULTILINE)
    assert sorted(table) == sorted(cli.verbs())


def test_every_make_target_is_documented_and_every_documented_one_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, re.MULTILINE))
    [phony] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert targets == set(phony.split())
    assert targets == set(re.findall(r"^\| `make ([a-z0-9-]+)` \|", CONTRIBUTING, re.MULTILINE))
    for path in MARKDOWN:
        mentioned = re.findall(
            r"(?:`|^ {4})make ([a-z0-9-]+)", path.read_text("utf-8"), re.MULTILINE
        )
        assert set(mentioned) <= targets, path.name


def test_every_extra_is_documented() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([a-z]+)` \|", operations, re.MULTILINE))
    assert documented == set(project["optional-dependencies"])


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_resolves(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        resolved = (path.parent / file).resolve() if file else path
        assert resolved.exists(), target
        assert resolved.is_relative_to(ROOT), target
        if anchor:
            assert anchor in _anchors(resolved.read_text(encoding="utf-8")), target


def test_every_decision_record_is_in_the_index_and_says_what_it_must() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text(encoding="utf-8")
    records = sorted(folder.glob("[0-9]*.md"))
    assert [path.name[:4] for path in records] == [f"{n:04}" for n in range(1, len(records) + 1)]
    for path in records:
        text = path.read_text(encoding="utf-8")
        assert f"({path.name})" in index
        assert text.startswith(f"# {path.name[:4]} ")
        for part in ("* Status: ", "* Date: ", "## Options", "## Decision", "## Consequences"):
            assert part in text, f"{path.name}: {part}"


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)
    assert versions[0] == edge_runtime.__version__


def test_the_python_of_the_readme_uses_names_that_exist() -> None:
    [snippet] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.ImportFrom):
            assert node.module == "edge_runtime"
            assert {alias.name for alias in node.names} <= set(edge_runtime.__all__)


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _files(*TEXT)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_text_names_a_place_that_only_one_machine_has() -> None:
    assert _lines_with(re.compile(r"(?<![\w.~$}])/(work|home|root|Users)/")) == []


def test_nothing_is_left_to_do_in_the_text() -> None:
    assert _lines_with(re.compile(r"\b(TO[D]O|FIX[M]E|XX[X]|TB[D])\b")) == []
