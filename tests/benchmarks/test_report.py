"""From records to documents: nothing is invented, nothing is left out."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import report


def _row(records: dict[str, Any], start: str) -> list[str]:
    [row] = [row for row in report.targets_table(records) if row[0].startswith(start)]
    return row


def test_what_was_not_measured_is_said_to_be_so() -> None:
    _, *rows = report.targets_table({})
    assert len(rows) == len(report.TARGETS)
    assert {(row[2], row[3]) for row in rows} == {("not measured", "")}


@pytest.mark.parametrize(("growth", "met"), [(0.4, "yes"), (1.2, "**no**")])
def test_a_target_is_met_or_not_by_its_number(growth: float, met: str) -> None:
    stream = {"growth_mb": growth, "peak_rss_mb": 99.0}
    records = {"memory": {"results": {"stream": stream, "minutes": 60}}}
    assert _row(records, "memory growth")[2:] == [f"{growth:+.2f} MB", met]
    assert _row(records, "cold start")[2:] == ["not measured", ""]


def test_equal_tokens_over_too_few_utterances_do_not_meet_the_target() -> None:
    def chunk(utterances: int, equal: int) -> dict[str, Any]:
        return {"utterances": utterances, "utterances_with_equal_tokens": equal, "ratio": 0.9}

    for utterances, equal, met in ((100, 100, "yes"), (99, 99, "**no**"), (100, 99, "**no**")):
        results = {"audio": ["a"], "320": chunk(utterances, equal), "80": chunk(120, 120)}
        row = _row({"sherpa": {"results": results}}, "utterances with the tokens")
        assert row[2:] == [f"{equal} of {utterances}", met]


def test_only_what_is_between_the_markers_is_replaced() -> None:
    text = f"# Title\n\n{report.BEGIN}\nold\n{report.END}\nrest\n"
    made = report.replace_between(text, "new\n")
    assert made == f"# Title\n\n{report.BEGIN}\nnew\n{report.END}\nrest\n"
    assert report.replace_between(made, "new") == made
    for wrong in ("no markers", text + text, f"{report.END}{report.BEGIN}"):
        with pytest.raises(ValueError, match="once"):
            report.replace_between(wrong, "")


@pytest.mark.parametrize("name", report.ORDER)
def test_every_benchmark_says_what_it_measures_and_is_listed_in_the_readme(name: str) -> None:
    module = report.importlib.import_module(f"benchmarks.{name}")
    assert len((module.__doc__ or "").split()) > 40
    assert f"| `{name}.py` |" in (report.ROOT / "benchmarks" / "README.md").read_text("utf-8")


def test_the_documents_say_what_the_records_say() -> None:
    """`make results` after `make bench`: nobody has typed a number into a document."""
    records = report.load_records(report.RESULTS)
    assert set(records) <= set(report.ORDER)
    for name, content in report.documents(records).items():
        text = (report.ROOT / name).read_text("utf-8")
        assert report.replace_between(text, content) == text
