from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as fewer
from hypothesis import strategies as st

from autotrain_cloud.datasets.guard import GuardSettings, guards
from autotrain_cloud.datasets.rows import row_of
from autotrain_cloud.labels.records import Label
from autotrain_cloud.selection.domains import checked_examples
from autotrain_cloud.selection.duplicates import duplicates, simhash
from autotrain_cloud.selection.embedding import fit_space
from autotrain_cloud.selection.greedy import square_root_quotas, take
from autotrain_cloud.selection.select import SelectionSettings, probably_wrong, select
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.labelled import label

COOKING = "boil fry bake the soup bread onion butter salt pan oven dish stir chop sauce".split()
SAILING = "the ship sail wind harbour anchor wave mast captain storm deck rope tide sea".split()


def sentence(words: list[str], rng: random.Random) -> str:
    return " ".join(rng.choice(words) for _ in range(8))


def corpus(count: int = 120) -> list[Label]:
    """Every fourth about cooking."""
    rng = random.Random(0)
    return [
        label(
            f"{number:03}", sentence(COOKING if number % 4 == 0 else SAILING, rng),
            segment_device=f"d{number % 7}", segment_slice=f"s{number % 2}",
        )
        for number in range(count)
    ]  # fmt: skip


EXAMPLES = {"cooking": [sentence(COOKING, random.Random(9 + n)) for n in range(30)]}
HALF_A_MINUTE = SelectionSettings(hours=80 / 3600, replay_share=0.0, max_device_hours=1)


def test_the_target_domain_is_what_is_taken() -> None:
    found = select(corpus(), replace(HALF_A_MINUTE, target="cooking"), examples=EXAMPLES)
    assert len(found.rows) == 20
    about = [set(row.text.split()) & set(COOKING) - {"the"} for row in found.rows]
    assert sum(map(bool, about)) >= 18
    assert all("cooking" in row.reason and "student wrong" in row.reason for row in found.rows)
    assert all(row.utility == pytest.approx(row.p_domain * row.p_wrong * row.trust)
               for row in found.rows)  # fmt: skip


def test_the_order_of_the_labels_and_the_run_change_nothing() -> None:
    labels = corpus()
    shuffled = random.Random(1).sample(labels, len(labels))
    settings = replace(HALF_A_MINUTE, target="cooking")
    assert select(labels, settings, examples=EXAMPLES) == select(
        shuffled, settings, examples=EXAMPLES
    )


def test_every_label_is_taken_or_has_a_reason_for_being_left_out() -> None:
    labels = [
        *corpus(30), label("r", "disputed words", decision="review", reasons=("disputed",)),
        label("low", "a b", trust=0.1), label("x", "words", segment_slice="elsewhere"),
    ]  # fmt: skip
    settings = replace(HALF_A_MINUTE, min_trust=0.5, slices=("s0", "s1"))
    found = select(labels, settings)
    taken = {row.segment_id for row in found.rows}
    assert taken | set(found.left_out) == {one.segment.id for one in labels}
    assert not taken & set(found.left_out)
    assert found.left_out["r"] == "review: disputed"
    assert found.left_out["low"] == "trust below 0.5"
    assert found.left_out["x"] == "another slice"


def test_limits_of_devices_and_hours_hold() -> None:
    settings = replace(HALF_A_MINUTE, max_device_hours=8 / 3600)
    rows = select(corpus(), settings).rows
    spent: dict[str, float] = defaultdict(float)
    for row in rows:
        spent[row.device] += row.duration_s
    assert max(spent.values()) <= 8 and sum(spent.values()) <= 80


def test_small_slices_are_not_starved() -> None:
    quotas = square_root_quotas({"big": 900.0, "small": 100.0}, 40.0)
    assert quotas == {"big": pytest.approx(30.0), "small": pytest.approx(10.0)}
    labels = [
        replace(one, segment=replace(one.segment, slice="small" if n < 12 else "big"))
        for n, one in enumerate(corpus(120))
    ]
    rows = select(labels, HALF_A_MINUTE).rows
    assert sum(row.slice == "small" for row in rows) >= 4


def test_replay_takes_its_share_of_old_and_known_speech() -> None:
    old = [row_of(label(f"old{n}", f"old text {n}"), "train", "") for n in range(20)]
    guard = [replace(row_of(label("g", "guarded"), "guard", ""), split="guard")]
    settings = replace(HALF_A_MINUTE, replay_share=0.25)
    found = select(corpus(), settings, old=[*old, *guard])
    replayed = [row for row in found.rows if row.split == "replay"]
    assert len(replayed) == 5 and len(found.rows) == 20
    assert all(row.reason.startswith("replay") for row in replayed)
    assert "g" not in {row.segment_id for row in found.rows}


def test_what_the_student_knows_is_replay_and_nothing_else() -> None:
    labels = [*corpus(20), label("known", "easy words here", triage="easy", teacher_device=0.0)]
    assert probably_wrong(labels[-1]) == 0.0
    rows = select(labels, replace(HALF_A_MINUTE, replay_share=0.25)).rows
    assert [row.split for row in rows if row.segment_id == "known"] == ["replay"]


def test_guarding_voices_are_never_selected() -> None:
    guard = GuardSettings(share=0.4)
    found = select(corpus(), HALF_A_MINUTE, guard=guard)
    assert not any(guards(row.device, row.speaker, guard) for row in found.rows)
    assert "a guarding voice" in found.left_out.values()


def test_an_empty_selection_says_what_took_everything_away() -> None:
    with pytest.raises(ConfigError, match="nothing to select from 2 labels: 2 drop: rate"):
        select([label(n, "t", decision="drop", reasons=("rate",)) for n in "ab"], HALF_A_MINUTE)
    with pytest.raises(ConfigError, match="nothing to select from 0 labels"):
        select([], HALF_A_MINUTE)
    with pytest.raises(ConfigError, match="none of 1 usable labels was selected"):
        select([label("a", "text", segment_duration_s=1000.0)], HALF_A_MINUTE)
    with pytest.raises(ConfigError, match="target: 'cooking' has no example sentences"):
        select(corpus(), replace(HALF_A_MINUTE, target="cooking"))
    with pytest.raises(ConfigError, match="3 different example sentences"):
        checked_examples(["a", "b", "c", "c"], "kitchen.txt")


def test_duplicates_are_left_out_once_each() -> None:
    texts = ["turn the light on in the kitchen"] * 3 + ["yes"] * 5 + ["quite another thing"]
    points = fit_space(texts).embed(texts)
    voices = ["ada", "ada", "bob"] + [f"v{n}" for n in range(5)] + ["ada"]
    audio = ["1", "2", "3", "4", "5", "6", "7", "8", "1"]
    found = duplicates(points, texts, audio, voices, max_per_phrase=3)
    assert found == {
        1: "nearly the same text from the same voice",
        6: "said 3 times already",
        7: "said 3 times already",
        8: "same audio",
    }


def test_close_texts_have_close_hashes() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((2, 128)).astype(np.float32)
    near = points[0] + 0.05 * rng.standard_normal(128).astype(np.float32)
    hashes = simhash(np.stack([points[0], near, points[1]]).astype(np.float32))
    bits = [bin(int(hashes[0]) ^ int(other)).count("1") for other in hashes[1:]]
    assert bits[0] < 8 < 16 < bits[1]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.5, 9), st.integers(0, 2), st.integers(0, 3)),
             min_size=1, max_size=30),
    st.floats(1, 40), st.floats(1, 10), st.floats(0, 1),
)  # fmt: skip
@fewer(max_examples=60, deadline=None)
def test_taking_never_breaks_a_limit_and_never_takes_twice(
    items: list[tuple[float, float, int, int]], budget: float, device: float, diversity: float
) -> None:
    rng = np.random.default_rng(len(items))
    points = rng.standard_normal((len(items), 4)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    utility, seconds, slices, devices = (list(column) for column in zip(*items, strict=True))
    taken = take(
        np.array(utility), points, seconds, [str(s) for s in slices], [str(d) for d in devices],
        budget_s=budget, max_device_s=device, diversity=diversity,
    )  # fmt: skip
    indices = [one.index for one in taken]
    assert len(set(indices)) == len(indices)
    assert sum(seconds[i] for i in indices) <= budget + 1e-6
    for name in set(devices):
        assert sum(seconds[i] for i in indices if devices[i] == name) <= device + 1e-6
    # What was not taken is useless, or fits no more.
    spent = sum(seconds[i] for i in indices)
    for i in set(range(len(items))) - set(indices):
        own = sum(seconds[j] for j in indices if devices[j] == devices[i])
        assert utility[i] == 0 or spent + seconds[i] > budget or own + seconds[i] > device


def test_diversity_takes_the_far_before_the_alike() -> None:
    points = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    order = [
        [one.index for one in take(np.array([1.0, 0.9, 0.5]), points, [1.0] * 3, ["s"] * 3,
                                   ["a", "b", "c"], budget_s=3, max_device_s=9, diversity=d)]
        for d in (0.0, 1.0)
    ]  # fmt: skip
    assert order == [[0, 1, 2], [0, 2, 1]]


def test_a_voice_is_on_one_side_of_the_split_where_there_are_enough_of_them() -> None:
    rng = random.Random(0)
    labels = [
        label(f"{n:03}", sentence(SAILING, rng), segment_device=f"d{n % 40}") for n in range(200)
    ]
    found = select(labels, SelectionSettings(replay_share=0.0, dev_share=0.2))
    sides = defaultdict(set)
    for row in found.rows:
        sides[row.device].add(row.split)
    assert all(len(splits) == 1 for splits in sides.values())
    assert {split for splits in sides.values() for split in splits} == {"train", "dev"}


def test_of_few_voices_none_is_all_that_is_asked_before_going_further() -> None:
    rng = random.Random(0)
    labels = [
        label(f"{n:03}", sentence(SAILING, rng), segment_device=f"d{n % 3}") for n in range(200)
    ]
    found = select(labels, SelectionSettings(replay_share=0.0, dev_share=0.2))
    asked = [row.device for row in found.rows if row.split == "dev"]
    assert set(asked) == {"d0", "d1", "d2"} and 0.1 < len(asked) / len(found.rows) < 0.3


@pytest.mark.parametrize("devices", [3, 40])
def test_what_only_the_student_said_is_learnt_but_measures_nothing(devices: int) -> None:
    """And with more to learn, the same measures: a second round asks what the first one asked."""
    rng = random.Random(0)
    settings = SelectionSettings(replay_share=0.0, dev_share=0.2)
    confirmed = [
        label(
            f"{n:03}", sentence(SAILING, rng), segment_device=f"d{n % devices}",
        )
        for n in range(100)
    ]  # fmt: skip
    for n in range(1, 100, 2):  # confirmed in part
        segment = replace(confirmed[n].segment, id=f"{n:03}@10-900", end_s=0.9)
        confirmed[n] = replace(confirmed[n], segment=segment)
    own = [
        label(
            f"{n:03}", sentence(SAILING, rng), segment_device=f"d{n % devices}", triage="alone",
            trust=1.0,
        )
        for n in range(60, 200)
    ]  # fmt: skip

    def asked(labels: list[Label]) -> tuple[set[str], set[str]]:
        found = select(labels, settings)
        rows, ids = found.rows, {row.segment_id for row in found.rows}
        assert len(ids) == len(rows) and not ids & found.left_out.keys()
        assert {one.segment.id for one in labels} == ids | found.left_out.keys()
        sides = {row.device: row.split for row in rows}
        if devices == 40:
            assert all(sides[row.device] == row.split for row in rows)
        return (
            {row.segment_id for row in rows if row.split == "dev"},
            {row.segment_id for row in rows if row.triage == "alone"},
        )

    known = [replace(one, text="what it heard", triage="easy", trust=1.0) for one in confirmed]
    first, _ = asked(confirmed)
    second, learnt = asked([*own, *known[:30], *confirmed])
    assert second == first and len(learnt) > 50
    assert not learnt & {one.segment.id.partition("@")[0] for one in confirmed}
    assert asked(own)[0]  # where nothing else is there, it must do


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("dev_share", [0.0, 0.01, 0.5, 0.99])
def test_neither_side_of_a_split_of_few_utterances_is_empty(count: int, dev_share: float) -> None:
    rng = random.Random(count)
    labels = [label(f"{n}", sentence(SAILING, rng)) for n in range(count)]
    found = select(labels, SelectionSettings(replay_share=0.0, dev_share=dev_share))
    splits = [row.split for row in found.rows]
    assert len(splits) == count and "train" in splits
    assert ("dev" in splits) == (dev_share > 0 and count > 1)
