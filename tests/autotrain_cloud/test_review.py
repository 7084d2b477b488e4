from __future__ import annotations

import json
from pathlib import Path

import pytest

from autotrain_cloud.label_studio import export_tasks, import_reviews
from autotrain_cloud.review import Item, Review, apply, doubt, queue
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.labelled import label


def disputed(name: str, text: str, distance: float = 0.5, **fields: object) -> object:
    return label(
        name, text, decision="review", triage="disputed", reasons=("disputed",),
        teacher_device=distance, teacher_second=distance, **fields,
    )  # fmt: skip


def test_the_most_uncertain_come_first_but_not_all_alike() -> None:
    same = [disputed(f"a{n}", "open the door now", 0.9, segment_device=f"d{n}") for n in range(30)]
    others = [
        disputed(f"b{n}", text, 0.5, segment_device=f"e{n}")
        for n, text in enumerate(["sing a song", "what time is it", "call my mother today"])
    ]
    items = queue([*same, *others, label("kept", "fine")], 4, random_share=0.0)  # type: ignore[list-item]
    names = [item.segment_id for item in items]
    assert len(names) == 4 and names[0].startswith("a")
    assert {"b0", "b1", "b2"} <= set(names)
    assert all("disputed" in item.why and "doubt" in item.why for item in items)


def test_some_are_drawn_at_random_from_all() -> None:
    labels = [*(disputed(f"a{n}", f"words {n}") for n in range(20)),
              *(label(f"k{n}", f"kept {n}") for n in range(200))]  # fmt: skip
    items = queue(labels, 20, random_share=0.5)  # type: ignore[arg-type]
    sample = [item for item in items if item.why == "random sample"]
    assert len(sample) == 10
    assert any(item.segment_id.startswith("k") for item in sample)
    assert queue(list(reversed(labels)), 20, random_share=0.5) == items  # type: ignore[arg-type]


def test_nothing_that_people_have_said_is_asked_again() -> None:
    assert queue([label("h", "said", source="human")], 5) == []
    assert queue([], 5) == []
    assert doubt(disputed("a", "t", 0.9)) > doubt(disputed("a", "t", 0.1))  # type: ignore[arg-type]


def answer(segment: str, text: str, at_ms: int = 5, verdict: str = "text") -> Review:
    return Review(segment_id=segment, reviewer="ada", at_ms=at_ms, verdict=verdict, text=text)


def test_people_override_teachers_and_both_are_kept() -> None:
    before = disputed("a", "what a teacher heard")
    [after] = apply([before], [answer("a", "What I heard!"), answer("a", "older", at_ms=1)])  # type: ignore[list-item]
    assert (after.text, after.source, after.decision, after.trust) == (
        "what i heard", "human", "keep", 1.0,
    )  # fmt: skip
    assert after.reasons == ("reviewed by ada at 5",)
    assert after.teacher == before.teacher and after.outcomes == before.outcomes  # type: ignore[attr-defined]
    [dropped] = apply([before], [answer("a", "", verdict="unusable")])  # type: ignore[list-item]
    assert (dropped.decision, dropped.source) == ("drop", "human")


def test_a_review_of_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="a review of segment z"):
        apply([label("a", "t")], [answer("z", "t")])
    with pytest.raises(ConfigError, match="verdict: 'maybe'"):
        answer("a", "t", verdict="maybe")


# --- Label Studio ---------------------------------------------------------------------------------


def annotated(path: Path, **fields: object) -> Path:
    """What Label Studio exports after a person pressed submit."""
    tasks = json.loads(path.read_text())
    for number, task in enumerate(tasks):
        results = [
            {"from_name": "transcript", "to_name": "audio", "type": "textarea",
             "value": {"text": [f"Corrected {number}."]}},
            {"from_name": "verdict", "to_name": "audio", "type": "choices",
             "value": {"choices": ["text"]}},
        ]  # fmt: skip
        task["annotations"] = [
            {"completed_by": 7, "updated_at": "2026-11-01T10:00:00Z", "result": results} | fields
        ]
    out = path.with_name("annotated.json")
    out.write_text(json.dumps(tasks))
    return out


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    labels = {name: label(name, f"text {name}") for name in "ab"}
    items = [Item(segment_id=name, priority=1.0, why="because") for name in "ab"]
    path = tmp_path / "tasks.json"
    assert export_tasks(items, labels, path) == 2
    return path


def test_what_goes_out_and_comes_back_is_what_people_said(exported: Path) -> None:
    tasks = json.loads(exported.read_text())
    assert tasks[0]["data"]["segment_id"] == "a"
    assert tasks[0]["predictions"][0]["result"][0]["value"]["text"] == ["text a"]
    assert import_reviews(exported) == []  # nobody has answered yet
    reviews = import_reviews(annotated(exported))
    assert [(r.segment_id, r.text, r.reviewer) for r in reviews] == [
        ("a", "Corrected 0.", "label-studio:7"), ("b", "Corrected 1.", "label-studio:7"),
    ]  # fmt: skip
    assert reviews[0].at_ms == 1793527200000
    done = apply([label(name, "t") for name in "ab"], reviews)
    assert [one.text for one in done] == ["corrected 0", "corrected 1"]


def test_cancelled_annotations_and_verdicts_without_text_are_understood(exported: Path) -> None:
    assert import_reviews(annotated(exported, was_cancelled=True)) == []
    verdict = [{"from_name": "verdict", "value": {"choices": ["unusable"]}}]
    found = import_reviews(annotated(exported, result=verdict, completed_by={"email": "a@b.c"}))
    assert {(r.verdict, r.text, r.reviewer) for r in found} == {
        ("unusable", "", "label-studio:a@b.c")
    }


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"result": [{"from_name": "verdict", "value": {"choices": ["text"]}}]},
         "transcript: is missing"),
        ({"result": [{"from_name": "transcript", "value": {"text": [1]}}]}, r"transcript: \[1\]"),
        ({"result": [{"from_name": "verdict", "value": {"choices": ["eh"]}}]}, "verdict: 'eh'"),
        ({"updated_at": "yesterday"}, "updated_at: .*ISO 8601"),
        ({"updated_at": None}, "updated_at"),
        ({"completed_by": None}, "reviewer"),
    ],
)  # fmt: skip
def test_an_export_that_is_wrong_names_file_task_and_field(
    exported: Path, fields: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError, match=rf"annotated\.json: task 1: .*{problem}"):
        import_reviews(annotated(exported, **fields))


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "not JSON"), ("{}", "expected a list of tasks"), ("[1]", "task 1: expected named"),
     ('[{"data": {}}]', "segment_id"), ('[{"data": {"segment_id": "a"}, "annotations": 1}]',
                                        "annotations: expected a list")],
)  # fmt: skip
def test_a_file_that_is_no_export_is_an_error(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=problem):
        import_reviews(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        import_reviews(tmp_path / "none.json")
