"""Templates, and what identifies a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotrain_cloud.pipeline import steps
from autotrain_cloud.pipeline.controller import OF_A_RUN, Inputs, Knobs
from autotrain_cloud.pipeline.steps import Step, digest, key, plan
from edge_runtime.cli import verbs
from edge_runtime.errors import ConfigError

VALUES = {"out": "/o", "a": "x y", "many": ("1", "2"), "none": (), "empty": ""}


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("do {a} --to {out}/f", ("do", "x y", "--to", "/o/f")),
        ("do {many}", ("do", "1", "2")),
        ("do [ -s {many} ] [ -n {none} ] [ -e={empty} ] end", ("do", "-s", "1", "2", "end")),
        ("sh -c 'a; b'", ("sh", "-c", "a; b")),
    ],
)  # fmt: skip
def test_a_template_becomes_a_command_line(command: str, argv: tuple[str, ...]) -> None:
    assert Step(name="s", command=command).argv(VALUES) == argv


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("do {b}", r"s: \{b\} is neither"),
        ("do {none}", r"s: \{none\}: is empty"),
        ("do {empty}/x", "is empty"),
        ("do --x={many}", "is a list and must stand alone"),
        ("do [ {a}", "without its ]"),
    ],
)
def test_a_template_that_cannot_be_filled_says_why(command: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Step(name="s", command=command).argv(VALUES)


def test_the_table_names_only_what_exists() -> None:
    names = [*Inputs.__slots__, *Knobs.__slots__, *OF_A_RUN]
    table = plan({}, names)
    assert [step.name for step in table] == [s.name for s in steps.STEPS if s.command]
    known = verbs()
    for step in table:
        program, verb = step.command.split()[:2]
        assert program == "vitconformer" and verb in known


AFTER = ("calibrate", "gate")  # what comes of the last round


def test_the_trained_steps_have_options_that_their_verbs_know() -> None:
    import argparse

    ours = {"train", "features", "interpolate", "export", "confidence", "calibrate"}
    seen, known = set(), verbs()
    for step in plan({}, [*Inputs.__slots__, *Knobs.__slots__, *OF_A_RUN]):
        verb = step.command.split()[1]
        if verb not in ours:
            continue
        seen.add(verb)
        values = dict.fromkeys(step.needs, "1") | {"out": "o", "train_set": ("a.b=1",)}
        values["train_set_again"] = ("c.d=2",)
        parser = argparse.ArgumentParser(exit_on_error=False)
        known[verb].load().configure(parser)
        parser.parse_args(step.argv(values)[2:])
    assert seen == ours


def test_the_second_round_does_what_the_first_did_with_what_the_student_understood() -> None:
    names = [*Inputs.__slots__, *Knobs.__slots__, *OF_A_RUN]
    two = {step.name: step for step in plan({}, names)}
    one = {step.name: step for step in plan(dict.fromkeys(steps.SECOND_ROUND, ""), names)}
    assert set(two) - set(one) == set(steps.SECOND_ROUND)
    assert all(two[name] == step for name, step in one.items() if name not in AFTER)
    values = {name: f"<{name}>" for name in (*two, *names, "out")} | {"train_set": ("a=1",)}
    values["train_set_again"] = ()
    first, again = (dict(values, relabel=relabel) for relabel in ("", "<relabel>"))
    repeated = [name.removesuffix("_again") for name in steps.SECOND_ROUND if name != "relabel"]
    for name in repeated:
        before, after = one[name].argv(first), two[f"{name}_again"].argv(again)
        after = tuple(
            "<checkpoint>" if word == "<interpolate>/model.safetensors" and name == "retrain"
            else word.replace("_again>", ">")
            for word in after if word != "<relabel>"
        )  # fmt: skip
        assert after == before
    for before in ((), ("a=1",)):  # what is set for a second round comes last, and alone as well
        last = dict(again, train_set=before, train_set_again=("a=2", "b=3"))
        assert two["retrain_again"].argv(last)[-3:] == ("--set", "a=2", "b=3")
        assert "a=2" not in two["retrain"].argv(last)
    assert "<relabel>" in two["select_again"].argv(again)
    assert "<retrain_again>/run" in two["interpolate_again"].argv(again)
    for name in AFTER:
        before, after = one[name].argv(first), two[name].argv(again)
        assert [word.replace("_again>", ">") for word in after] == [*before] != [*after]
    replaced = {step.name: step for step in plan({"retrain": "mine {features} {out}"}, names)}
    assert replaced["retrain_again"].command == "mine {features_again} {out}"
    assert replaced["retrain_again"].makes == ()


def test_a_command_may_be_replaced_or_left_out() -> None:
    names = [*Inputs.__slots__, *Knobs.__slots__, *OF_A_RUN]
    replaced = {step.name: "" for step in steps.STEPS} | {"select": "pick {out}"}
    (only,) = plan(replaced, names)
    assert only.command == "pick {out}" and only.makes == ()
    rest = dict.fromkeys(("gather", "label", "noise", *steps.SECOND_ROUND), "")
    rest["select"] = "pick {out}"
    (retrain,) = [s for s in plan(rest | {"noise_features": ""}, names) if s.name == "retrain"]
    values = dict.fromkeys(retrain.needs, "x") | {"out": "o", "train_set": (), "noise_features": ""}
    assert "--replay" in retrain.argv(values) and "--noise" not in retrain.argv(values)
    with pytest.raises(ConfigError, match=r"commands\.noise_features: \{noise\} is neither"):
        plan(rest, names)
    with pytest.raises(ConfigError, match=r"commands\.selct: no such step"):
        plan({"selct": "x"}, names)
    with pytest.raises(ConfigError, match=r"commands\.select: \{train\} is neither"):
        plan({"select": "x {train}"}, names)
    with pytest.raises(ConfigError, match=r"\{select\} is neither"):
        plan({"select": ""}, names)


def test_a_result_is_identified_by_all_it_depends_on_and_nothing_else() -> None:
    step = Step(name="s", command="do {input} {setting} {before} --out {out}")
    facts = {"code": "1", "inputs": {"input": "i"}, "settings": {"setting": "x"},
             "results": {"before": "k"}}  # fmt: skip
    usual = key(step, **facts)  # type: ignore[arg-type]
    others = [
        {**facts, "code": "2"},
        {**facts, "inputs": {"input": "j"}},
        {**facts, "settings": {"setting": "y"}},
        {**facts, "results": {"before": "l"}},
    ]
    keys = {key(step, **other) for other in others}  # type: ignore[arg-type]
    assert len(keys | {usual}) == 5
    more = {**facts, "inputs": {"input": "i", "unused": "u"}, "results": {"before": "k", "z": "z"}}
    assert key(step, **more) == usual  # type: ignore[arg-type]


def test_the_digest_of_a_folder_is_that_of_its_files_and_their_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text("content")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    (tmp_path / "two" / "deep" / "file").rename(tmp_path / "two" / "deep" / "other")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")
    with pytest.raises(ConfigError, match=r"absent: cannot be read: No such file"):
        digest(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is empty"):
        digest(tmp_path / "empty")
