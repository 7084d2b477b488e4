"""The neural voice, with a graph of a few nodes in the place of the 90 MB model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_runtime.errors import ConfigError
from training import kokoro
from training.voices import VOICES, Line, require, select, speak

LETTERS = "abcdefhijklmnopstuvwzæðŋɐɑɒɔəɚɛɜɡɪɹɾʃʊʌʒθˈˌː ,.!?"  # noqa: RUF001
KNOWN = 100  # lengths, in phonemes, that a style is known for

needs_espeak = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="no espeak-ng here")


def graph() -> onnx.ModelProto:
    """One sample per token, its number times the mean of the style, divided by the speed."""
    nodes = [
        helper.make_node("Cast", ["tokens"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["style"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["numbers", "mean"], ["loud"]),
        helper.make_node("Div", ["loud", "speed"], ["waveform"]),
    ]
    tensor = helper.make_tensor_value_info
    inputs = [
        tensor("tokens", TensorProto.INT64, [1, "n"]),
        tensor("style", TensorProto.FLOAT, [1, 256]),
        tensor("speed", TensorProto.FLOAT, [1]),
    ]
    outputs = [tensor("waveform", TensorProto.FLOAT, [1, "n"])]
    return helper.make_model(
        helper.make_graph(nodes, "voice", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as `make kokoro` leaves it, with the styles of two speakers."""

    def forget() -> None:
        for cached in (kokoro._session, kokoro._style, kokoro._vocabulary, require):
            cached.cache_clear()

    monkeypatch.setenv("VITCONFORMER_KOKORO", str(tmp_path))
    onnx.save(graph(), tmp_path / "model.onnx")
    numbers = {letter: number for number, letter in enumerate(LETTERS, 1)}
    tmp_path.joinpath("vocab.json").write_text(json.dumps(numbers), "utf-8")
    tmp_path.joinpath("voices").mkdir()
    for name, value in (("af_sky", 0.01), ("am_adam", 0.03)):
        styles = np.full((KNOWN, 1, 256), value, "<f4")
        tmp_path.joinpath("voices", f"{name}.bin").write_bytes(styles.tobytes())
    forget()
    yield tmp_path
    forget()


@needs_espeak
def test_words_become_ipa_and_commas_and_the_end_mark_stay() -> None:
    ipa = kokoro.phonemes("don't go there, mister hale, will you?", british=False)
    assert ipa.count(",") == 2 and ipa.endswith("?")
    assert "\n" not in ipa and "oʊ" in ipa
    assert kokoro.phonemes("the harbour.", british=True) != kokoro.phonemes("the harbour.", False)


@needs_espeak
def test_a_line_is_its_tokens_between_two_zeros(model: Path) -> None:
    samples = kokoro.read("af_sky", "water.", speed=2.0)
    ipa = kokoro.phonemes("water.", british=False)
    numbers = [0, *(LETTERS.index(letter) + 1 for letter in ipa), 0]
    assert samples is not None
    np.testing.assert_allclose(samples, np.array(numbers) * 0.01 / 2.0, rtol=1e-5)


@needs_espeak
def test_two_names_speak_with_the_mean_of_both_styles(model: Path) -> None:
    one, other, both = (
        kokoro.read(name, "water.", 1.0) for name in ("af_sky", "am_adam", "af_sky+am_adam")
    )
    assert one is not None and other is not None and both is not None
    np.testing.assert_allclose(both, (one + other) / 2, rtol=1e-5)


@needs_espeak
def test_a_line_longer_than_a_style_knows_is_left_out_and_its_neighbours_are_not(
    model: Path,
) -> None:
    lines = [Line(spoken="water."), Line(spoken="water " * KNOWN + "."), Line(spoken="fire.")]
    assert [r is not None for r in speak(VOICES["kokoro-af_sky"], lines)] == [True, False, True]


@needs_espeak
def test_a_speaker_without_a_style_is_refused_and_the_command_that_brings_it_is_named(
    model: Path,
) -> None:
    require(VOICES["kokoro-af_sky"])
    for missing in ("kokoro-af_bella", "kokoro-af_sky+bf_alice"):
        with pytest.raises(ConfigError, match=f"{re.escape(missing)}: .*make kokoro"):
            require(VOICES[missing])


def test_kokoro_speaks_only_where_it_is_asked_for() -> None:
    assert not any(voice.engine == "kokoro" for voice in select(("all",)))
    assert len(select(("kokoro",))) == 180
    assert [voice.id for voice in select(("kokoro-am_adam",))] == ["am_adam"]
