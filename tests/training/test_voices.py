import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_runtime.errors import ConfigError
from training.voices import VOICES, Line, Recording, Voice, require, select, speak

LINES = (
    Line(spoken="the rain fell slowly, all night."),
    Line(spoken="don't go!"),
    Line(spoken="is it o'clock yet, mister hale?"),
)
ENGINES = {"flite", "festival", "espeak-ng", "rhvoice", "pico", "kokoro"}


def usable(voice: Voice) -> bool:
    try:
        require(voice)
    except ConfigError:
        return False
    return True


def a_voice(name: str) -> Voice:
    if not usable(VOICES[name]):
        pytest.skip(f"no {name} on this machine")
    return VOICES[name]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A PATH with nothing on it but what the test puts there."""
    require.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    yield tmp_path
    require.cache_clear()


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_names_are_unique_and_safe_in_a_file_name() -> None:
    assert all(name == voice.name for name, voice in VOICES.items())
    assert all(re.fullmatch(r"[A-Za-z0-9_+-]+", name) for name in VOICES)
    assert {voice.engine for voice in VOICES.values()} == ENGINES


def test_all_never_means_a_held_out_voice() -> None:
    held_out = {voice.name for voice in VOICES.values() if voice.held_out}
    assert held_out == {"flite-rms", "festival-ked_diphone"}
    for names in (("all",), ("flite", "festival"), ("all", "flite-slt")):
        assert not held_out & {voice.name for voice in select(names)}
    assert {voice.name for voice in select(("held-out",))} == held_out
    assert [voice.name for voice in select(("flite-rms",))] == ["flite-rms"]


def test_excluding_takes_away_from_what_was_asked_for() -> None:
    left = select(("flite", "festival"), exclude=("festival", "flite-awb"))
    assert [voice.name for voice in left] == ["flite-slt", "flite-kal16"]
    with pytest.raises(ConfigError, match="every voice"):
        select(("flite",), exclude=("all",))


@pytest.mark.parametrize("kind", ["names", "exclude"])
def test_a_misspelt_voice_is_an_error_and_not_silence(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"no voice 'flite-stl'; .*flite-slt"):
        select(("flite-stl",)) if kind == "names" else select(exclude=("flite-stl",))


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("flite-slt", "flite"),
        ("festival-kal_diphone", "festival festvox-kallpc16k"),
        ("espeak-en-us+m3", "espeak-ng"),
        ("rhvoice-bdl", "rhvoice rhvoice-english"),
        ("pico-en-GB", "libttspico-utils"),
    ],
)
def test_a_missing_program_names_its_debian_packages(
    name: str, package: str, programs: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"apt install {package}$"):
        require(VOICES[name])


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("flite-slt", "flite"),
        ("festival-kal_diphone", "festival festvox-kallpc16k"),
        ("espeak-en-us+m3", "espeak-ng"),
    ],
)
def test_a_program_without_the_voice_is_refused_though_it_would_speak(
    name: str, package: str, programs: Path
) -> None:
    script(programs / VOICES[name].engine, "echo 'Voices available: kal awb'")
    with pytest.raises(ConfigError, match=f"does not have it; .*apt install {package}$"):
        require(VOICES[name])


@pytest.mark.parametrize(
    "name",
    [
        "flite-slt",
        "flite-rms",
        "festival-kal_diphone",
        "festival-cmu_us_slt_arctic_hts",
        "espeak-en+f2",
        "rhvoice-alan",
        "pico-en-US",
    ],
)
def test_every_engine_reads_every_line_at_a_human_pace(name: str) -> None:
    recordings = speak(a_voice(name), LINES)
    assert len(recordings) == len(LINES)
    for line, recording in zip(LINES, recordings, strict=True):
        assert recording is not None
        assert recording.samples.dtype == np.float32 and recording.samples.ndim == 1
        assert 8000 <= recording.rate <= 48000
        assert 0.05 < np.abs(recording.samples).max() <= 1.0
        seconds = len(recording.samples) / recording.rate
        assert 0.8 < len(line.spoken.split()) / seconds < 7.0


@pytest.mark.parametrize(
    "name",
    [
        "flite-awb",
        "festival-kal_diphone",
        "festival-cmu_us_slt_arctic_hts",
        "espeak-en-us+m1",
        "rhvoice-clb",
        "pico-en-GB",
    ],
)
def test_a_faster_line_is_shorter(name: str) -> None:
    spoken = LINES[0].spoken
    slow, fast = speak(a_voice(name), [Line(spoken=spoken, speed=s) for s in (0.85, 1.15)])
    assert slow is not None and fast is not None
    ratio = (len(slow.samples) / slow.rate) / (len(fast.samples) / fast.rate)
    assert 1.15 < ratio < 1.5


@pytest.mark.parametrize(
    "name", ["flite-awb", "festival-kal_diphone", "espeak-en-us+m1", "rhvoice-bdl", "pico-en-US"]
)
def test_another_vocal_tract_takes_as_long_and_sounds_higher(name: str) -> None:
    spoken = LINES[0].spoken
    large, small = speak(a_voice(name), [Line(spoken=spoken, tract=t) for t in (0.87, 1.15)])
    assert large is not None and small is not None
    seconds = [len(r.samples) / r.rate for r in (large, small)]
    assert seconds[0] / seconds[1] == pytest.approx(1.0, abs=0.12)

    def pitch(r: Recording) -> float:  # Hz, of the strongest autocorrelation within human range
        power = np.abs(np.fft.rfft(r.samples, 2 * len(r.samples))) ** 2
        lags = np.arange(r.rate // 400, r.rate // 60)
        return float(r.rate / lags[np.fft.irfft(power)[lags].argmax()])

    assert pitch(small) / pitch(large) == pytest.approx(1.15 / 0.87, rel=0.15)


def test_every_espeak_voice_of_the_registry_exists_and_differs() -> None:
    voices = [voice for voice in VOICES.values() if voice.engine == "espeak-ng"]
    if not usable(voices[0]):
        pytest.skip("no espeak-ng on this machine")
    heard = set()
    for voice in voices:
        require(voice)
        (recording,) = speak(voice, [Line(spoken="water.")])
        assert recording is not None
        heard.add(recording.samples.tobytes())
    assert len(heard) == len(voices) > 60


def test_a_line_the_engine_fails_on_does_not_take_the_others_with_it(programs: Path) -> None:
    # A festival that dies at the word "crash", as the real one does now and then.
    cp, cat = (shutil.which(p, path="/usr/bin:/bin") for p in ("cp", "cat"))
    wav = programs / "ok.wav"
    soundfile.write(wav, np.full(1600, 0.5, np.float32), 16000)
    script(
        programs / "festival",
        f'{cat} "$2" | while read -r line; do case "$line" in *crash*) exit 1;; '
        f'*save.wave*) rest=${{line#*\\) \\"}}; {cp} {wav} "${{rest%%\\"*}}";; esac; done',
    )
    spoken = ["one.", "crash.", "two.", "crash.", "three."]
    got = speak(VOICES["festival-kal_diphone"], [Line(spoken=s) for s in spoken])
    assert [r is not None for r in got] == [True, False, True, False, True]


def test_an_engine_that_leaves_no_sound_gives_none(programs: Path) -> None:
    script(programs / "flite", "exit 1")
    script(programs / "espeak-ng", 'echo "not a wav file" > "$8"')
    for name in ("flite-slt", "espeak-en-us+m1"):
        assert speak(VOICES[name], LINES[:2]) == [None, None]
