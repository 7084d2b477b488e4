"""Features: the definitions, those of the library, and that no way of cutting changes a bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kaldi_native_fbank as knf
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.errors import AudioError, BundleIncompatible
from edge_runtime.features import FEATURE_DIM, open_frontend

Array = NDArray[np.float32]
FRONTENDS = ["knf_nemo", "nemo_exact"]
SAMPLES = Path(__file__).parents[2] / "samples"


def sound(samples: int, seed: int = 0) -> Array:
    """A chirp with noise and a stretch of digital silence."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 16000
    x = 0.3 * np.sin(2 * np.pi * (150 + 900 * t) * t) + 0.01 * rng.standard_normal(samples)
    x[samples // 3 : samples // 2] = 0
    return x.astype(np.float32)


def mel_matrix() -> NDArray[np.float64]:
    """Slaney's 80 triangles over the 257 bins of a 512-point FFT at 16 kHz, [80, 257]."""
    hz = np.arange(257) * 16000 / 512
    mels = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 82)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre))
    return np.maximum(triangles, 0) * 2 / (high - low)


@pytest.mark.parametrize("name", FRONTENDS)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_chunking_gives_the_same_bits_as_the_whole(name: str, data: st.DataObject) -> None:
    samples = data.draw(st.integers(0, 6000))
    cuts = sorted(data.draw(st.lists(st.integers(0, samples), max_size=12)))
    x = sound(samples)
    stream = open_frontend(name).stream()
    pieces = [stream.push(piece) for piece in np.split(x, cuts)]
    assert all(piece.shape[1:] == (FEATURE_DIM,) for piece in pieces)
    chunked = np.concatenate([*pieces, stream.finish()])
    assert chunked.tobytes() == open_frontend(name).compute(x).tobytes()


@pytest.mark.parametrize("name", FRONTENDS)
def test_single_samples_give_the_same_bits_as_the_whole(name: str) -> None:
    x = sound(1000)
    stream = open_frontend(name).stream()
    pieces = [stream.push(x[i : i + 1]) for i in range(len(x))]
    chunked = np.concatenate([*pieces, stream.finish()])
    assert chunked.tobytes() == open_frontend(name).compute(x).tobytes()


@pytest.mark.parametrize("name", FRONTENDS)
def test_more_audio_never_changes_frames_already_given(name: str) -> None:
    x = sound(16000)
    early = open_frontend(name).stream().push(x[:9000])
    assert early.tobytes() == open_frontend(name).compute(x)[: len(early)].tobytes()


def test_knf_nemo_is_the_stated_formula() -> None:
    x = sound(8000).astype(np.float64)
    centres = 160 * np.arange(3, 40) + 80  # away from the mirrored edges
    frames = np.stack([x[c - 200 : c + 200] for c in centres])
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(frames * hann, 512)) ** 2
    expected = np.log(np.maximum(power @ mel_matrix().T, np.finfo(np.float32).eps))
    actual = open_frontend("knf_nemo").compute(x.astype(np.float32))[3:40]
    # float32 against float64: loose only where the power is a rounding error of a loud neighbour
    np.testing.assert_allclose(actual, expected, atol=2e-2)
    assert np.median(np.abs(actual - expected)) < 1e-5


def test_nemo_exact_is_the_stated_formula() -> None:
    x = sound(8050)
    emphasised = np.concatenate([x[:1], x[1:] - np.float32(0.97) * x[:-1]]).astype(np.float64)
    padded = np.pad(emphasised, 256)
    hann = np.pad(np.hanning(400), 56)
    count = len(x) // 160
    frames = np.stack([padded[160 * i : 160 * i + 512] * hann for i in range(count)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    expected = np.log(power @ mel_matrix().T + 2.0**-24)
    actual = open_frontend("nemo_exact").compute(x)
    assert actual.shape == (count, FEATURE_DIM)
    np.testing.assert_allclose(actual, expected, atol=2e-2)
    assert np.median(np.abs(actual - expected)) < 1e-5


@pytest.mark.parametrize(("name", "floor"), [("knf_nemo", 2.0**-23), ("nemo_exact", 2.0**-24)])
def test_silence_is_the_floor(name: str, floor: float) -> None:
    frames = open_frontend(name).compute(np.zeros(4000, np.float32))
    np.testing.assert_allclose(frames, np.log(floor), rtol=1e-6)


@pytest.mark.parametrize("name", FRONTENDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_samples_that_are_no_sound_are_refused_and_change_nothing(name: str, bad: float) -> None:
    x = sound(4000)
    stream = open_frontend(name).stream()
    first = stream.push(x[:1500])
    broken = x[1500:].copy()
    broken[700] = bad
    with pytest.raises(AudioError, match="NaN, infinite"):
        stream.push(broken)
    rest = [stream.push(x[1500:]), stream.finish()]
    chunked = np.concatenate([first, *rest])
    assert chunked.tobytes() == open_frontend(name).compute(x).tobytes()


@pytest.mark.parametrize("name", FRONTENDS)
def test_the_loudest_accepted_samples_give_finite_features(name: str) -> None:
    x = np.where(np.arange(4000) % 2, 1e6, -1e6).astype(np.float32)
    assert np.isfinite(open_frontend(name).compute(x)).all()


@pytest.mark.parametrize("name", FRONTENDS)
@pytest.mark.parametrize("samples", [0, 1, 79])
def test_too_little_audio_gives_no_frames(name: str, samples: int) -> None:
    assert open_frontend(name).compute(sound(samples)).shape == (0, FEATURE_DIM)


def test_half_a_frame_shift_is_the_least_that_knf_nemo_gives_a_frame_for() -> None:
    assert open_frontend("knf_nemo").compute(sound(80)).shape == (1, FEATURE_DIM)
    assert open_frontend("nemo_exact").compute(sound(160)).shape == (1, FEATURE_DIM)


@pytest.mark.parametrize("name", FRONTENDS)
def test_a_finished_stream_takes_nothing_more(name: str) -> None:
    stream = open_frontend(name).stream()
    stream.push(sound(1000))
    stream.finish()
    assert stream.finish().shape == (0, FEATURE_DIM)
    with pytest.raises(ValueError, match="finished"):
        stream.push(sound(1000))


def test_what_is_not_a_line_of_floats_is_a_mistake_of_the_caller() -> None:
    stream = open_frontend("knf_nemo").stream()
    for samples in (np.zeros((2, 100), np.float32), np.zeros(100, np.int16), np.float32(0.0)):
        with pytest.raises(ValueError, match="1-D float"):
            stream.push(np.asarray(samples))
    doubles = sound(2000)[::-1].astype(np.float64)  # neither float32 nor contiguous, but a sound
    assert len(stream.push(doubles)) == 11  # type: ignore[arg-type]


def test_an_unknown_frontend_is_incompatible() -> None:
    with pytest.raises(BundleIncompatible, match="mfcc"):
        open_frontend("mfcc")


def library(x: Array, *, exact: bool) -> Array:
    """What kaldi-native-fbank gives: as sherpa-onnx sets it, or set to be what NeMo computes."""
    options = knf.FbankOptions()
    frame, mel = options.frame_opts, options.mel_opts
    frame.dither, frame.snip_edges, frame.remove_dc_offset = 0, False, False
    frame.window_type = "hanning" if exact else "hann"
    mel.num_bins, mel.low_freq, mel.high_freq, mel.is_librosa = FEATURE_DIM, 0, 8000, True
    count = (len(x) + 80) // 160
    if exact:  # kaldi's frame i + 2 of a signal that is 400 samples late is centred on 160·i
        frame.preemph_coeff, options.use_log_floor, options.eps = 0, False, 2.0**-24
        count = len(x) // 160
        emphasised = np.append(x[:1], x[1:] - np.float32(0.97) * x[:-1])
        x = np.pad(emphasised.astype(np.float32), 400)
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(16000, x.tolist())
    fbank.input_finished()
    first = 2 if exact else 0
    return np.stack([fbank.get_frame(i) for i in range(first, first + count)])


@pytest.mark.parametrize("exact", [False, True])
@settings(max_examples=60, deadline=None)
@given(samples=st.integers(160, 6000), seed=st.integers(0, 1000))
def test_frames_are_those_of_the_library_that_sherpa_uses(
    exact: bool, samples: int, seed: int
) -> None:
    """Down to the shortest signals, which are all mirror image or all padding."""
    x = sound(samples, seed)
    found = open_frontend("nemo_exact" if exact else "knf_nemo").compute(x)
    expected = library(x, exact=exact)
    assert found.shape == expected.shape
    # float32 against float64: loose only where the power is a rounding error of a loud neighbour
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert np.median(np.abs(found - expected)) < 1e-5


def test_speech_is_that_of_the_library_to_the_fourth_digit() -> None:
    for file in sorted(SAMPLES.glob("*.flac")):
        x, rate = soundfile.read(file, dtype="float32")
        assert rate == 16000
        found = open_frontend("knf_nemo").compute(x)
        assert np.abs(found - library(x, exact=False)).max() < 1e-3


def test_ten_minutes_of_audio_leave_no_memory_behind() -> None:
    code = """
import resource
import numpy as np
from edge_runtime.features import open_frontend
x = np.random.default_rng(0).standard_normal(160_000).astype(np.float32) * np.float32(0.1)
stream = open_frontend("knf_nemo").stream()
for _ in range(3):
    stream.push(x)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(60):
    stream.push(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 1024  # KiB, over ten minutes of audio
