"""Files and pipes: the samples that arrive, and what is said about those that cannot."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.audio import RawFormat, open_audio
from edge_runtime.errors import AudioError

Array = NDArray[np.float32]


def noise(seconds: float, rate: int = 16_000, channels: int = 1, seed: int = 0) -> Array:
    """f32 [n, channels], smooth enough for lossy codecs to keep."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((round(seconds * rate) + 64, channels))
    smooth = np.apply_along_axis(lambda x: np.convolve(x, np.hanning(33), "same"), 0, white)
    return (0.1 * smooth[:-64] / np.abs(smooth).max()).astype(np.float32)


def whole(path: Path | str, block_s: float = 0.1, raw: RawFormat | None = None) -> Array:
    with open_audio(path, raw=raw) as source:
        blocks = list(source.blocks(block_s))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def feed(tmp_path: Path, data: bytes) -> Path:
    """A FIFO out of which `data` can be read once."""
    path = tmp_path / f"pipe{len(list(tmp_path.iterdir()))}"
    os.mkfifo(path)

    def write() -> None:
        with contextlib.suppress(BrokenPipeError):  # refused, and rightly not read to its end
            path.write_bytes(data)

    threading.Thread(target=write, daemon=True).start()
    return path


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- what arrives -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
def test_lossless_files_arrive_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    samples = (noise(1.234)[:, 0] * 32767).astype(np.int16)
    soundfile.write(tmp_path / f"a.{suffix}", samples, 16_000)
    assert np.array_equal(whole(tmp_path / f"a.{suffix}"), samples / np.float32(32768))


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3", "a.opus"])
def test_lossy_files_arrive_close_to_what_was_written(tmp_path: Path, name: str) -> None:
    samples = noise(1.0)[:, 0]
    kind = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
    soundfile.write(tmp_path / name, samples, 16_000, **kind)
    heard = whole(tmp_path / name)
    assert len(heard) == pytest.approx(len(samples), abs=2500)
    # Codecs may delay; the best lag must explain nearly all of the sound.
    lag = np.correlate(heard, samples[2000:12000], "valid").argmax()
    assert np.corrcoef(heard[lag : lag + 10000], samples[2000:12000])[0, 1] > 0.9


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    samples = noise(0.5, channels=channels)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert np.allclose(whole(tmp_path / "a.wav"), samples.mean(axis=1), atol=1e-7)


@settings(deadline=None, max_examples=20)
@given(
    rate=st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000, 96_000]),
    block_s=st.floats(0.001, 1.5),
    length=st.integers(0, 40_000),
)
def test_resampling_by_blocks_equals_resampling_the_whole(
    tmp_path_factory: pytest.TempPathFactory, rate: int, block_s: float, length: int
) -> None:
    path = tmp_path_factory.mktemp("rate") / "a.wav"
    samples = noise(1.0, rate=40_000)[:length, 0]
    soundfile.write(path, samples, rate, subtype="FLOAT")
    expected = soxr.resample(samples, rate, 16_000)
    assert np.allclose(whole(path, block_s), expected, atol=1e-6)


def test_a_resampled_tone_keeps_its_pitch_and_level(tmp_path: Path) -> None:
    times = np.arange(2 * 44_100) / 44_100
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * times), 44_100)
    middle = whole(tmp_path / "a.wav")[8_000:24_000]
    spectrum = np.abs(np.fft.rfft(middle)) / len(middle) * 2
    assert spectrum.argmax() == 1000
    assert spectrum[1000] == pytest.approx(0.5, abs=0.01)


@settings(deadline=None, max_examples=30)
@given(block_s=st.floats(1e-5, 2.0), rate=st.sampled_from([16_000, 8_000]))
def test_every_block_but_the_last_has_the_size_asked_for(
    tmp_path_factory: pytest.TempPathFactory, block_s: float, rate: int
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "a.wav"
    soundfile.write(path, noise(0.3, rate), rate)
    with open_audio(path) as source:
        sizes = [len(block) for block in source.blocks(block_s)]
    assert sum(sizes) == 4_800
    assert set(sizes[:-1]) <= {max(1, round(block_s * 16_000))}
    assert 0 < sizes[-1] <= max(1, round(block_s * 16_000))


@pytest.mark.parametrize("samples", [0, 1])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_sound_without_samples_is_no_error(tmp_path: Path, samples: int, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(samples), rate)
    assert len(whole(tmp_path / "a.wav")) <= samples


def test_a_long_file_is_never_held_in_memory(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((60 * 44_100, 2), np.int16), 44_100)  # 21 MB f32
    whole(tmp_path / "a.wav")  # imports
    tracemalloc.start()
    with open_audio(tmp_path / "a.wav") as source:
        heard = sum(len(block) for block in source.blocks(0.32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert heard == 60 * 16_000
    assert peak < 1_000_000


def test_closing_a_source_frees_its_descriptor(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(10), 16_000)
    (tmp_path / "b.wav").write_text("no sound")
    before = open_descriptors()
    for _ in range(5):
        whole(tmp_path / "a.wav")
        with pytest.raises(AudioError):
            open_audio(tmp_path / "b.wav")
    assert open_descriptors() == before


# --- pipes --------------------------------------------------------------------------------------


def test_raw_s16le_is_the_default_of_a_pipe(tmp_path: Path) -> None:
    samples = (noise(0.7)[:, 0] * 32767).astype("<i2")
    heard = whole(feed(tmp_path, samples.tobytes()))
    assert np.array_equal(heard, samples / np.float32(32768))


def test_raw_floats_in_stereo_at_another_rate(tmp_path: Path) -> None:
    samples = noise(0.7, 8_000, channels=2)
    raw = RawFormat(encoding="f32le", sample_rate=8_000, channels=2)
    heard = whole(feed(tmp_path, samples.astype("<f4").tobytes()), raw=raw)
    assert np.allclose(heard, soxr.resample(samples.mean(axis=1), 8_000, 16_000), atol=1e-6)


def test_trailing_bytes_that_make_no_sample_are_dropped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = whole(feed(tmp_path, b"\x00\x40" * 1000 + b"\x7f"))
    assert np.array_equal(heard, np.full(1000, 0.5, np.float32))
    assert "1 trailing bytes" in caplog.text


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x00\x40"])
def test_a_pipe_may_be_as_short_as_it_likes(tmp_path: Path, data: bytes) -> None:
    assert len(whole(feed(tmp_path, data))) == len(data) // 2


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("layout", ["WAV", "WAVEX"])
def test_a_wav_stream_is_recognised_and_equals_the_file(
    tmp_path: Path, subtype: str, layout: str
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(0.5, 22_050, channels=2), 22_050, subtype=subtype, format=layout)
    heard = whole(feed(tmp_path, path.read_bytes()))
    assert np.allclose(heard, whole(path), atol=1e-7)


@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_wav_stream_that_does_not_know_its_length_is_read_to_its_end(
    tmp_path: Path, size: int
) -> None:
    header = b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + struct.pack("<I", 16)
    header += struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    data = header + b"data" + struct.pack("<I", size) + b"\x00\x40" * 4321
    assert np.array_equal(whole(feed(tmp_path, data)), np.full(4321, 0.5, np.float32))


def test_what_follows_the_samples_of_a_wav_stream_is_not_sound(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(1000, 0.5), 16_000, format="WAV")
    data = buffer.getvalue() + b"LIST\x04\x00\x00\x00abcd"
    assert np.array_equal(whole(feed(tmp_path, data)), np.full(1000, 0.5, np.float32))


def test_a_live_pipe_gives_a_block_as_soon_as_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with path.open("r+b", buffering=0) as pipe:  # never closed while the block is awaited
        pipe.write(b"\x00\x40" * 1600)
        with open_audio(path) as source:
            assert len(next(source.blocks(0.1))) == 1600


# --- what cannot be read ------------------------------------------------------------------------


def wav(path: Path) -> bytes:
    soundfile.write(path, noise(1.0)[:, 0], 16_000)
    return path.read_bytes()


def missing(path: Path) -> None:
    pass


def directory(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("Ceci n'est pas un son.\n" * 10, encoding="utf-8")


def corrupt_header(path: Path) -> None:
    data = wav(path)
    path.write_bytes(data[:20] + b"\xff" * 20 + data[40:])


def cut_header(path: Path) -> None:
    path.write_bytes(wav(path)[:30])


def absurd_rate(path: Path) -> None:
    data = wav(path)
    path.write_bytes(data[:24] + struct.pack("<I", 3) + data[28:])


def nan(path: Path) -> None:
    samples = noise(1.0)[:, 0]
    samples[12_345] = np.nan
    soundfile.write(path, samples, 16_000, subtype="FLOAT", format="WAV")


def infinite(path: Path) -> None:
    soundfile.write(path, np.array([0, np.inf, 0]), 16_000, subtype="FLOAT", format="WAV")


def cut_flac(path: Path) -> None:
    soundfile.write(path, noise(3.0)[:, 0], 16_000, format="FLAC")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def mp4(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(100))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, "no such file; check the path"),
        (directory, "is a directory; name the audio files in it"),
        (empty, "empty file"),
        (text, "looks like a text file"),
        (corrupt_header, "looks like a WAV file (Error in WAV"),
        (cut_header, "looks like a WAV file (Error in WAV"),
        (absurd_rate, "sample rate 3 Hz"),
        (nan, "NaN or infinite samples from 0.772 s on"),
        (infinite, "NaN or infinite samples from 0.000 s on"),
        (cut_flac, "damaged or cut off after 1."),
        (mp4, "looks like an MP4/M4A file"),
    ],
)
def test_an_unusable_file_is_named_described_and_given_a_remedy(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "strange.wav"
    make(path)
    with pytest.raises(AudioError) as caught:
        whole(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert ";" in message or "corrupt header" in message  # what was found; what to do


def test_a_file_one_may_not_read_is_said_to_be_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    wav(path)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything: ask the system for its refusal

        def refuse(*args: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AudioError, match="permission denied; check that you may read it"):
        open_audio(path)


@pytest.mark.parametrize("name", ["a\0b.wav", "x" * 5000])
def test_an_impossible_name_is_an_audio_error(name: str) -> None:
    with pytest.raises(AudioError, match="cannot be opened"):
        open_audio(name)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"fLaC" + bytes(100), "is a FLAC file"),
        (b"OggS" + bytes(100), "is an Ogg file"),
        (b"RIFF\0\0\0\0WAVE", "corrupt WAV header"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + bytes(16), "WAV encoding 0 with 0 bits"),
        (b"RIFF\0\0\0\0WAVEdata\x10\0\0\0" + bytes(16), "corrupt WAV header"),
        (
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 0, 16000, 0, 0, 16),
            "corrupt WAV header: channels",
        ),
    ],
)
def test_a_pipe_of_something_else_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        whole(feed(tmp_path, data))


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=80))
def test_no_header_can_do_worse_than_an_audio_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "a.wav").write_bytes(b"RIFF\0\0\0\0WAVE" + data)
    for path in (folder / "a.wav", feed(folder, b"RIFF\0\0\0\0WAVEfmt " + data)):
        try:
            whole(path)
        except AudioError as error:
            assert str(path) in str(error)
