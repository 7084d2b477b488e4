"""Sets that must not judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotrain_cloud.gate.hygiene import Training, Trust, check
from autotrain_cloud.gate.sets import EvalSet, read_set
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.gate.corpus import write_lines

TEXTS = (
    "the ferry left the harbour a little after nine",
    "nobody expected the letter to arrive on a sunday",
    "we counted seven boats along the northern shore",
    "turn the lights on",
)

TRUST = Trust()


def lines(folder: Path, name: str, speaker: str, **changes: Any) -> list[dict[str, Any]]:
    found = []
    for i, text in enumerate(TEXTS):
        path = folder / f"{name}-{i}.wav"
        path.write_bytes(f"{name} {i}".encode())
        line = {"audio_filepath": path.name, "duration": 1.0, "text": text, "speaker": speaker}
        found.append({**line, "label_source": "human", **changes})
    return found


def read(folder: Path, content: list[dict[str, Any]], name: str = "guard") -> EvalSet:
    return read_set(name, write_lines(folder / f"{name}.jsonl", content))


def problems(
    one: EvalSet, training: Training | None = None, trust: Trust = TRUST, **options: Any
) -> list[str]:
    return [finding.problem for finding in check([one], training, trust, **options)]


def training(folder: Path, content: list[dict[str, Any]]) -> Training:
    return Training.read([write_lines(folder / "training.jsonl", content)])


def test_a_clean_set_has_no_findings(tmp_path: Path) -> None:
    guard = read(tmp_path, lines(tmp_path, "g", "ann"))
    other = lines(tmp_path, "t", "bob")
    for line in other:
        line["text"] = "something else that nobody in the guard set ever said"
    assert problems(guard, training(tmp_path, other)) == []


def test_only_people_and_the_text_itself_may_label(tmp_path: Path) -> None:
    mixed = lines(tmp_path, "g", "ann")
    mixed[0]["label_source"] = "whisper"
    mixed[1]["label_source"] = "source"
    del mixed[2]["label_source"]
    guard = read(tmp_path, mixed)
    assert problems(guard) == [
        "1 of 4 lines have no label_source; expected human or source",
        "1 of 4 lines are labelled by whisper; a guard is labelled by people only",
    ]
    assert len(problems(guard, trust=Trust(unmarked_labels=True))) == 1


def test_speakers_audio_and_texts_that_training_knows_are_found(tmp_path: Path) -> None:
    guard = read(tmp_path, lines(tmp_path, "g", "ann"))
    same = lines(tmp_path, "t", "ann")
    same[0]["audio_filepath"] = "g-0.wav"
    same[1]["text"] = "Nobody expected the letter to arrive, on a Sunday morning!"
    same[2]["text"] = "we counted nine ships along the southern shore"
    found = problems(guard, training(tmp_path, same))
    assert found[0] == "speakers that training has too: ann"
    assert found[1] == "1 of 4 recordings are in the training data"
    assert found[2].startswith("2 of 4 texts are in the training data, or nearly")
    assert len(problems(guard, training(tmp_path, same), Trust(max_known_texts=0.5))) == 2


def test_training_audio_that_is_elsewhere_is_known_by_its_digest(tmp_path: Path) -> None:
    guard = read(tmp_path, lines(tmp_path, "g", "ann"))
    away = lines(tmp_path, "t", "bob")
    away[3] |= {"audio_filepath": "gone.wav", "audio_sha256": guard.recordings[3].audio_sha256}
    found = problems(guard, training(tmp_path, away), Trust(max_known_texts=1.0))
    assert found == ["1 of 4 recordings are in the training data"]


def test_many_looks_are_a_warning(tmp_path: Path) -> None:
    guard = read(tmp_path, lines(tmp_path, "g", "ann"))
    [finding] = check([guard], None, Trust(), {guard.digest: 50})
    assert not finding.fatal and "50 challengers were judged on it" in finding.problem
    assert problems(guard, looks={guard.digest: 49}) == []


def test_a_set_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    content = lines(tmp_path, "g", "ann")
    first = read(tmp_path, content)
    (tmp_path / "moved").mkdir()
    moved = [dict(line) for line in content]
    for line in moved:
        line["audio_filepath"] = str(tmp_path / line["audio_filepath"])
    assert read(tmp_path / "moved", moved).digest == first.digest
    content[0]["text"] += " or so"
    assert read(tmp_path, content).digest != first.digest


def test_a_set_of_unknown_speakers_or_without_audio_is_refused_by_line(tmp_path: Path) -> None:
    content = lines(tmp_path, "g", "ann")
    content[2]["speaker"] = ""
    with pytest.raises(ConfigError, match="utterance 3: has neither speaker nor device"):
        read(tmp_path, content)
    content[2]["device"] = "d7"
    assert read(tmp_path, content).recordings[2].block == "d7"
    content[1]["audio_filepath"] = "gone.wav"
    with pytest.raises(ConfigError, match=r"utterance 2: audio_filepath: .*gone.wav: No such"):
        read(tmp_path, content)
    with pytest.raises(ConfigError, match="has no utterances"):
        read(tmp_path, [])
