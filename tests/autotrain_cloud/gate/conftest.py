"""Sets and bundles that the tests of the gate share: made once, heard once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.autotrain_cloud.gate import corpus


@dataclass(frozen=True)
class Arena:
    """Where bundles compete."""

    folder: Path
    target: Path
    guard: Path
    noise: Path
    cache: Path  # what was heard by any test
    settings: Path
    weak: Path  # a bundle that hears badly

    def bundle(self, name: str, make: Callable[[Path], Path]) -> Path:
        path = self.folder / name
        return path if path.is_dir() else make(path)


SETTINGS = """
[test]
draws = 2000

[bounds]  # two programs on a busy machine: what is wasted here is many times as much
cpu_ratio = 2.0
memory_ratio = 1.3
runs = 1
seconds = 8
"""


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    for program in ("flite", "festival", "espeak-ng"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    folder = tmp_path_factory.mktemp("gate")
    settings = folder / "gate.toml"
    settings.write_text(SETTINGS, "utf-8")
    return Arena(
        folder=folder,
        target=corpus.speak_set(folder / "sound", "street", each=2, first=0),
        guard=corpus.speak_set(folder / "sound", "kitchen", each=3, first=20),
        noise=corpus.noise_set(folder / "sound"),
        cache=folder / "cache",
        settings=settings,
        weak=corpus.variant(folder / "weak", "0.3.0", graph=corpus.scramble(0.2)),
    )
