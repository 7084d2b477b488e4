"""The gate's benchmark: what it says of the kind with the highest rate."""

from __future__ import annotations

from benchmarks.gate import cell, worst


def test_the_worst_kind_is_measured_again_on_sets_of_its_own() -> None:
    cells = [cell(speakers, 0.3, False, 100, 5) for speakers in (10, 20)]
    cells[0]["superiority"], cells[1]["superiority"] = 0.0, 0.9  # chance at its extreme
    again = worst(cells, "superiority", 0.0, 400)
    assert (again["speakers"], again["effect"], again["unequal"]) == (20, 0.3, False)
    assert again["again"] < 0.12  # not 0.9: nothing of the first measurement is left
    low, high = again["interval"]
    assert low < again["again"] < high and high - low < 0.1
