"""What all benchmarks stand on: order of runs, ratios, audio, child processes, what is recorded."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import measure


def test_every_system_runs_equally_often_and_in_both_orders() -> None:
    order: list[str] = []
    systems = {name: lambda name=name: order.append(name) or len(order) for name in "AB"}
    found = measure.alternate(systems, 3)
    assert "".join(order) == "ABBAAB"
    assert found == {"A": [1, 4, 5], "B": [2, 3, 6]}


SPIN = "import time\nwhile time.process_time() < {}: pass"


def test_programs_that_take_turns_share_the_time_and_are_charged_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "SLICE_S", 0.02)

    def program(seconds: float) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SPIN.format(seconds)])

    spent = measure.take_turns({"long": lambda: program(0.6), "short": lambda: program(0.2)})
    assert spent["long"] >= 0.6 and spent["short"] >= 0.2
    assert spent["short"] < spent["long"]  # what another used is not among it


def test_a_program_that_fails_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SLICE_S", 0.02)
    sleeper = subprocess.Popen(["sleep", "60"])
    failing = ["sh", "-c", "exit 3"]
    with pytest.raises(SystemExit, match="failed with 3"):
        measure.take_turns({"a": lambda: subprocess.Popen(failing), "b": lambda: sleeper})
    assert sleeper.wait() == -signal.SIGKILL


def test_a_disturbance_that_hits_both_sides_of_a_pair_does_not_move_the_ratio() -> None:
    quiet = measure.median_ratio([1.0, 1.1, 0.9], [2.0, 2.2, 1.8])
    assert measure.median_ratio([1.0, 5.5, 0.9], [2.0, 11.0, 1.8]) == quiet == 0.5


def test_percentiles_of_nothing_are_not_numbers() -> None:
    assert measure.percentiles(list(range(101)), 50, 90) == {"p50": 50.0, "p90": 90.0}
    assert np.isnan(measure.percentiles([], 50)["p50"])


@pytest.mark.parametrize("milliseconds", [20, 80, 333])
def test_blocks_joined_are_the_samples(milliseconds: int) -> None:
    samples = np.arange(12_345, dtype=np.float32)
    pieces = list(measure.blocks(samples, milliseconds))
    assert np.array_equal(np.concatenate(pieces), samples)
    assert {len(piece) for piece in pieces[:-1]} == {16 * milliseconds}


def test_a_recorded_command_names_no_place_outside_the_repository() -> None:
    arguments = ["benchmarks/x.py", "--bundle", str(measure.ROOT / "bundles" / "b"),
                 "--manifest=real=/somewhere/else/all.jsonl#7", "--repeats", "5"]  # fmt: skip
    assert (
        measure.command(arguments) == "python benchmarks/x.py --bundle bundles/b "
        "'--manifest=real=all.jsonl#7' --repeats 5"
    )


def test_a_manifest_option_can_choose_one_speaker(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    lines = [{"audio": f"{i}.wav", "duration": 1, "text": "a", "speaker": i % 2} for i in range(6)]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert len(measure.manifests([f"all={path}"])["all"]) == 6
    [*ones] = measure.manifests([f"some={path}#1"], limit=2)["some"]
    assert [u.audio_filepath.name for u in ones] == ["1.wav", "3.wav"]
    with pytest.raises(SystemExit, match="no utterances"):
        measure.manifests([f"none={path}#8"])
    with pytest.raises(SystemExit, match="NAME=FILE"):
        measure.manifests([str(path)])


def test_a_childs_memory_is_its_own_and_not_its_parents() -> None:
    ballast = np.ones(40 << 20, np.float64)  # 320 MiB here
    found = measure.child(measure.machine)
    assert found["peak_rss_mb"] < 200 < ballast.nbytes / 2**20
    assert found["cores"] == measure.machine()["cores"]


def test_a_child_that_dies_says_why() -> None:
    with pytest.raises(RuntimeError, match="unexpected keyword argument"):
        measure.child(measure.machine, nonsense=1)


def test_a_table_is_markdown_with_its_first_row_as_header() -> None:
    assert measure.markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |\n"
