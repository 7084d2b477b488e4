from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrain_cloud.datasets.export import export
from autotrain_cloud.datasets.guard import (
    GuardSettings,
    detectable,
    guard_rows,
    guards,
    leaks,
)
from autotrain_cloud.datasets.manifest import (
    HEAD,
    ROWS,
    Dataset,
    Row,
    content_hash,
    descends,
    diff,
    erase,
    freeze,
    query,
)
from autotrain_cloud.datasets.rows import row_of
from autotrain_cloud.tables import write_rows
from edge_runtime.errors import ConfigError
from edge_runtime.manifest import read_manifest
from tests.autotrain_cloud.labelled import label

SAMPLES = Path(__file__).parents[3] / "samples"


def row(name: str, text: str = "so it was", **fields: object) -> Row:
    return replace(row_of(label(name, text), "train", "because"), **fields)  # type: ignore[arg-type]


ROWS_OF_THREE = [row("a"), row("b", "and then"), row("c", device="d1", split="dev")]


def test_a_data_set_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = freeze(tmp_path, "kitchen", ROWS_OF_THREE, settings={"hours": 1}, parents=("p",))
    again = Dataset.open(made.path)
    assert again == made
    assert again.head.segments == 3 and again.head.hours == round(12 / 3600, 6)
    assert json.loads(again.head.counts)["split"] == {"train": 2, "dev": 1}
    assert again.rows[0].teacher.startswith("f/m@1#cccccccccccc-")
    assert (again.rows[0].filters, again.rows[0].doubts) == (("rate",), ("avg_logprob",))


@given(st.permutations(ROWS_OF_THREE))
@settings(max_examples=6, deadline=None)
def test_the_same_content_has_the_same_hash_in_any_order(rows: list[Row]) -> None:
    ordered = sorted(rows, key=lambda r: r.segment_id)
    assert content_hash(ordered, "n", (), "{}", ()) == content_hash(
        sorted(ROWS_OF_THREE, key=lambda r: r.segment_id), "n", (), "{}", ()
    )


def test_writing_the_same_twice_writes_it_once(tmp_path: Path) -> None:
    first = freeze(tmp_path, "n", ROWS_OF_THREE)
    stamp = (first.path / ROWS).stat().st_mtime_ns
    second = freeze(tmp_path, "n", reversed(ROWS_OF_THREE))
    assert second.path == first.path and (first.path / ROWS).stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == [first.path.name]


@pytest.mark.parametrize(
    "other",
    [
        {"settings": {"hours": 2}},
        {"parents": ("p",)},
        {"erased": ("z",)},
        {"rows": [*ROWS_OF_THREE[:2], row("c", "something else")]},
    ],
)
def test_any_other_content_has_another_hash(tmp_path: Path, other: dict[str, object]) -> None:
    base: dict[str, object] = {"rows": ROWS_OF_THREE}
    one = freeze(tmp_path, "n", **base)  # type: ignore[arg-type]
    two = freeze(tmp_path, "n", **(base | other))  # type: ignore[arg-type]
    assert one.hash != two.hash


def test_what_was_changed_by_hand_is_found(tmp_path: Path) -> None:
    made = freeze(tmp_path, "n", ROWS_OF_THREE)
    write_rows(made.path / ROWS, Row, [replace(made.rows[0], text="not so"), *made.rows[1:]])
    with pytest.raises(ConfigError, match="changed or damaged"):
        Dataset.open(made.path)
    (made.path / HEAD).write_text("{}")
    with pytest.raises(ConfigError, match=r"head\.json: format: is missing"):
        Dataset.open(made.path)
    with pytest.raises(ConfigError, match="not a data set"):
        Dataset.open(tmp_path)


def test_a_data_set_of_nothing_or_with_a_segment_twice_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no segments"):
        freeze(tmp_path, "n", [])
    with pytest.raises(ConfigError, match="segment a is in it twice"):
        freeze(tmp_path, "n", [row("a"), row("a")])
    assert list(tmp_path.iterdir()) == []


def test_erasing_makes_a_child_that_says_what_is_gone(tmp_path: Path) -> None:
    old = freeze(tmp_path, "n", ROWS_OF_THREE)
    child = erase(old, ["a", "never there"], tmp_path)
    assert [r.segment_id for r in child.rows] == ["b", "c"]
    assert child.head.erased == ("a",) and child.head.parents == (old.hash,)
    assert b"/audio/a.flac" not in (child.path / ROWS).read_bytes()
    grandchild = erase(child, ["b"], tmp_path)
    assert grandchild.head.erased == ("a", "b")
    assert [d.hash for d in descends(grandchild, [old, child])] == [
        grandchild.hash, child.hash, old.hash,
    ]  # fmt: skip
    assert erase(old, ["x"], tmp_path) is old
    with pytest.raises(ConfigError, match="no segments"):
        erase(old, ["a", "b", "c"], tmp_path)


def test_a_difference_names_every_segment(tmp_path: Path) -> None:
    old = freeze(tmp_path, "n", ROWS_OF_THREE)
    new = freeze(
        tmp_path, "n", [row("b", "and now"), row("c", device="d1", split="train"), row("e")]
    )
    found = diff(old, new)
    assert (found.added, found.removed) == (("e",), ("a",))
    assert found.relabelled == (("b", "and then", "and now"),)
    assert found.changed == (("c", ("split",)),)


def test_queries_see_the_rows_and_nothing_else(tmp_path: Path) -> None:
    made = freeze(tmp_path, "it's", ROWS_OF_THREE)
    names, found = query(made, "select device, count(*) as n from rows group by 1 order by 1")
    assert (names, found) == (["device", "n"], [("d0", 2), ("d1", 1)])
    with pytest.raises(ConfigError, match="query"):
        query(made, "select nonsense from rows")
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(ConfigError, match="query"):
        query(made, f"select * from read_csv('{secret}')")


def test_an_exported_manifest_is_what_training_reads(tmp_path: Path) -> None:
    import wave

    audio = SAMPLES / "flite-slt.flac"
    with wave.open(str(tmp_path / "x.wav"), "wb") as sink:
        sink.setparams((1, 2, 16_000, 0, "NONE", ""))
        sink.writeframes(b"\0\1" * 16_000)
    (tmp_path / "raw").write_bytes(b"\0\1" * 16_000)
    made = freeze(
        tmp_path, "n",
        [
            row("a", "so it was", audio=str(audio)),
            row("b", "and then", audio=f"file://{tmp_path / 'x.wav'}", split="replay"),
            row("c", "raw", audio=str(tmp_path / "raw"), codec="pcm16", speaker="ada"),
            row("d", "left out", split="dev"),
        ],
    )  # fmt: skip
    path = tmp_path / "out" / "train.jsonl"
    assert export(made, path, splits=("train", "replay")) == 3
    lines = read_manifest(path)
    assert [(line.text, line.speaker) for line in lines] == [
        ("so it was", "d0"), ("and then", "d0"), ("raw", "ada"),
    ]  # fmt: skip
    assert all(line.audio_filepath.is_file() for line in lines)
    assert lines[0].extra == {"segment": "a", "weight": 0.9, "source": "teacher"}
    with pytest.raises(ConfigError, match="no rows of split guard"):
        export(made, path, splits=("guard",))


# --- guard sets -----------------------------------------------------------------------------------

ENOUGH = GuardSettings(share=0.5, min_words=20, min_voices=3, after_ms=500)


def spoken(number: int, **fields: object) -> object:
    return label(
        f"g{number}", f"this is sentence number {number} of the guard set",
        source="human", segment_speaker=f"s{number}", **fields,
    )  # fmt: skip


def test_only_people_and_sources_guard_and_never_the_past() -> None:
    labels = [
        *(spoken(n) for n in range(40)),
        *(label(f"t{n}", "a teacher said so", segment_speaker=f"s{n}") for n in range(40)),
        *(replace(spoken(n), segment=replace(spoken(n).segment, id=f"o{n}", captured_ms=1))  # type: ignore[attr-defined,type-var]
          for n in range(40)),
    ]  # fmt: skip
    rows = guard_rows(labels, ENOUGH)  # type: ignore[arg-type]
    assert 5 < len(rows) < 35
    assert {r.source for r in rows} == {"human"} and {r.split for r in rows} == {"guard"}
    assert all(r.segment_id.startswith("g") for r in rows)
    assert all(guards(r.device, r.speaker, ENOUGH) for r in rows)


def test_a_guard_set_that_is_too_small_says_what_it_could_detect() -> None:
    with pytest.raises(ConfigError, match=r"too small: \d+ words of \d voices, .* detect a change"):
        guard_rows([spoken(n) for n in range(4)], replace(ENOUGH, share=1.0, min_words=1000))  # type: ignore[misc]
    with pytest.raises(ConfigError, match="0 words of 0 voices"):
        guard_rows([], ENOUGH)
    assert detectable(30_000) == pytest.approx(0.05)
    assert detectable(1000) > detectable(2000)


def test_what_training_shares_with_the_guard_set_is_found() -> None:
    guard = [
        row("g1", "the weather in the mountains was fine that day", speaker="ada"),
        row("g2", "yes", speaker="bob"),
        row("g3", "nothing like anything that the others ever said", speaker="eve"),
    ]
    training = [
        row("t1", "the weather in the mountains was fine that day too", speaker="cy"),
        row("t2", "another text altogether", speaker="ada"),
        row("t3", "yes", speaker="dan"),
        row("t4", "whatever", speaker="dan", audio_sha256=guard[2].audio_sha256),
    ]
    found = {(leak.guard, leak.training, leak.kind) for leak in leaks(guard, training)}
    assert found == {("g1", "t1", "text"), ("g1", "t2", "voice"), ("g3", "t4", "audio")}
    assert leaks(guard, []) == []
