from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.manifest import Utterance, read_manifest, write_manifest


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_what_is_written_is_read_back_with_unknown_fields(tmp_path: Path) -> None:
    utterance = Utterance(
        audio_filepath=tmp_path / "clips" / "a.flac",
        duration=1.25,
        text="so it was",
        speaker="awb",
        extra={"voice_engine": "flite", "snr": [1, 2]},
    )
    assert write_manifest(tmp_path / "m.jsonl", [utterance]) == 1
    assert read_manifest(tmp_path / "m.jsonl") == [utterance]


def test_audio_below_the_manifest_moves_with_it(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    clip = Utterance(audio_filepath=here / "a.wav", duration=1.0, text="")
    write_manifest(here / "m.jsonl", [clip])
    here.rename(there)
    assert read_manifest(there / "m.jsonl")[0].audio_filepath == there / "a.wav"


def test_absolute_paths_and_the_short_name_are_understood(tmp_path: Path) -> None:
    path = written(
        tmp_path / "m.jsonl",
        json.dumps({"audio": "x/b.opus", "text": "yes", "duration": 2, "speaker": 4088}),
        "",
        json.dumps({"audio_filepath": "/data/c.wav", "text": "no", "duration": 0.5}),
    )
    first, second = read_manifest(path)
    assert first.audio_filepath == tmp_path / "x" / "b.opus"
    assert (first.duration, first.speaker) == (2.0, "4088")
    assert second.audio_filepath == Path("/data/c.wav")


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"audio_filepath": "a.wav", "duration": 1}', "text"),
        ('{"audio_filepath": "a.wav", "duration": "1", "text": ""}', "duration"),
        ('{"audio_filepath": "a.wav", "duration": true, "text": ""}', "duration"),
        ('{"audio_filepath": "a.wav", "duration": -1, "text": ""}', "duration"),
        ('{"audio_filepath": "a.wav", "duration": NaN, "text": ""}', "duration"),
        ('{"duration": 1, "text": ""}', "audio_filepath"),
        ('{"audio_filepath": "", "duration": 1, "text": ""}', "audio_filepath"),
        ('{"audio_filepath": "a.wav", "duration": 1, "text": "", "speaker": []}', "speaker"),
        ("[]", "JSON object"),
        ('{"audio_filepath": ', "not JSON"),
    ],
)
def test_a_wrong_line_is_named_with_its_field(tmp_path: Path, line: str, field: str) -> None:
    good = '{"audio_filepath": "a.wav", "duration": 1, "text": ""}'
    path = written(tmp_path / "m.jsonl", good, line)
    with pytest.raises(ConfigError, match=rf"m\.jsonl:2: .*{field}"):
        read_manifest(path)


def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.jsonl"):
        read_manifest(tmp_path / "missing.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_manifest(tmp_path / "binary")


def test_a_failed_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = written(
        tmp_path / "m.jsonl", '{"audio_filepath": "a.wav", "duration": 1, "text": "old"}'
    )
    clip = Utterance(audio_filepath=Path("b.wav"), duration=1.0, text="new", extra={"bad": {1j}})
    with pytest.raises(TypeError):
        write_manifest(path, [clip])
    assert read_manifest(path)[0].text == "old"
    assert list(tmp_path.iterdir()) == [path]
