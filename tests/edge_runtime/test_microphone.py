"""The real PortAudio over ALSA, with files as microphones."""

from __future__ import annotations

import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime import microphone
from edge_runtime.errors import AudioError, ConfigError
from edge_runtime.microphone import list_devices, open_microphone
from tests.edge_runtime.alsa import RATE, paced_fifo, write_config

try:
    import pyaudio
except ImportError:
    pyaudio = None

needs_pyaudio = pytest.mark.skipif(
    pyaudio is None, reason="PyAudio is not installed: it needs PortAudio's headers to build"
)


def noise(seconds: float, seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-9000, 9000, round(seconds * RATE), np.int16)


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """plug_in(name=file, ...): these are the machine's microphones from now on."""

    def configure(**microphones: Path) -> None:
        path = write_config(tmp_path / "asound.conf", microphones)
        monkeypatch.setenv("ALSA_CONFIG_PATH", str(path))

    return configure


def raw(path: Path, samples: NDArray[np.int16]) -> Path:
    path.write_bytes(samples.astype("<i2").tobytes())
    return path


def take(blocks: Any, count: int) -> NDArray[np.float32]:
    """The next `count` samples."""
    taken = [next(blocks)]
    while sum(map(len, taken)) < count:
        taken.append(next(blocks))
    return np.concatenate(taken)[:count]


@needs_pyaudio
def test_a_machine_whose_alsa_names_nothing_has_no_microphone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asound.conf").write_text("")
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(tmp_path / "asound.conf"))
    with pytest.raises(AudioError, match="no microphone found"):  # PortAudio itself would abort
        list_devices()


@needs_pyaudio
def test_the_samples_of_the_device_come_out_in_order(tmp_path: Path, plug_in: Any) -> None:
    spoken = noise(3.0)
    plug_in(default=raw(tmp_path / "in.raw", spoken))
    with open_microphone() as mic:
        heard = take(mic.blocks(0.1), len(spoken))
    assert np.array_equal(heard, spoken / np.float32(32768))


@needs_pyaudio
def test_at_the_pace_of_speech_nothing_is_lost_and_nothing_waits(
    tmp_path: Path, plug_in: Any
) -> None:
    spoken = noise(1.5)
    with paced_fifo(tmp_path / "mic", spoken) as fifo:
        plug_in(default=fifo)
        with open_microphone() as mic:
            begin = time.monotonic()
            heard = take(mic.blocks(0.1), len(spoken))
            elapsed = time.monotonic() - begin
    assert np.array_equal(heard, spoken / np.float32(32768))
    assert mic.lost_s == 0
    assert 1.0 < elapsed < 2.5


@needs_pyaudio
def test_a_consumer_that_falls_behind_loses_sound_and_is_told_how_much(
    tmp_path: Path, plug_in: Any, caplog: pytest.LogCaptureFixture
) -> None:
    spoken = noise(3.0)
    plug_in(default=raw(tmp_path / "in.raw", spoken))
    with open_microphone(queue_s=0.4) as mic:  # the file arrives faster than anybody can read
        time.sleep(0.2)
        heard = take(mic.blocks(0.1), round(0.4 * RATE))
    assert np.array_equal(heard, spoken[: len(heard)] / np.float32(32768))
    assert mic.lost_s > 1.0
    assert "sound lost so far" in caplog.text


@needs_pyaudio
def test_a_device_is_chosen_by_number_or_by_part_of_its_name(tmp_path: Path, plug_in: Any) -> None:
    plug_in(
        default=raw(tmp_path / "a.raw", noise(0.5, 1)),
        headset=raw(tmp_path / "b.raw", noise(0.5, 2)),
        handset=raw(tmp_path / "c.raw", noise(0.5, 3)),
    )
    devices = {device.name: device for device in list_devices()}
    assert set(devices) == {"default", "headset", "handset"}
    assert [name for name, device in devices.items() if device.is_default] == ["default"]
    for choice, seed in ((None, 1), ("Head", 2), (devices["handset"].index, 3), ("handset", 3)):
        with open_microphone(choice) as mic:
            heard = take(mic.blocks(0.1), 1600)
        assert np.array_equal(heard, noise(0.5, seed)[:1600] / np.float32(32768)), choice
    with pytest.raises(AudioError, match=r"could be several: .*headset.*handset"):
        open_microphone("dset").__enter__()
    with pytest.raises(AudioError, match=r"no microphone 'webcam'; there are .*headset"):
        open_microphone("webcam").__enter__()
    with pytest.raises(AudioError, match="no microphone '99'"):
        open_microphone("99").__enter__()


@needs_pyaudio
def test_a_machine_without_a_microphone_says_so(plug_in: Any) -> None:
    plug_in(default=Path("/nonexistent"))
    assert list_devices() == []
    with pytest.raises(AudioError, match="no microphone found; connect one"):
        open_microphone().__enter__()


@needs_pyaudio
def test_the_chatter_of_the_sound_system_goes_to_the_debug_log(
    plug_in: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    plug_in(default=Path("/nonexistent"))
    with caplog.at_level(logging.DEBUG, microphone.__name__):
        list_devices()
    assert capfd.readouterr().err == ""
    assert "sound system: " in caplog.text  # PortAudio always fails to find a JACK server here


def test_without_pyaudio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyaudio", None)
    with pytest.raises(ConfigError, match=r"pip install 'vitconformer\[mic\]'"):
        list_devices()


# --- devices that cannot be had here ------------------------------------------------------------


class Stereo48k:
    """Stands in for PyAudio: a device that does 48 kHz stereo only, and goes away after a while."""

    def __init__(self, samples: NDArray[np.int16]) -> None:
        self._samples = samples
        self._active = False

    def open(
        self, *, rate: int, channels: int, frames_per_buffer: int, stream_callback: Any, **_: Any
    ) -> Any:
        if (rate, channels) != (48_000, 2):
            raise OSError(-9997, "Invalid sample rate")

        def play() -> None:
            for start in range(0, len(self._samples), frames_per_buffer):
                block = self._samples[start : start + frames_per_buffer]
                stream_callback(block.tobytes(), len(block), {}, 0)
            self._active = False

        self._active = True
        threading.Thread(target=play).start()
        return self

    def is_active(self) -> bool:
        return self._active

    def stop_stream(self) -> None:
        raise OSError(-9985, "Device unavailable")

    def close(self) -> None:
        pass


def test_a_device_that_refuses_16_khz_mono_is_converted_and_its_loss_is_an_error() -> None:
    times = np.arange(48_000) / 48_000
    tone = 9000 * np.sin(2 * np.pi * np.outer(times, [440, 880]))
    device = microphone.Device(index=0, name="USB", channels=2, sample_rate=48_000, is_default=True)
    with microphone._record(Stereo48k(tone.astype(np.int16)), device, 10.0) as mic:
        blocks = mic.blocks(0.1)
        heard = take(blocks, 12_800)
        with pytest.raises(AudioError, match="USB: stopped delivering sound"):
            take(blocks, 16_000)
    spectrum = np.abs(np.fft.rfft(heard[:8000]))
    assert set(np.argsort(spectrum)[-2:]) == {220, 440}  # 2 Hz a bin


def test_a_device_that_refuses_everything_is_an_audio_error() -> None:
    device = microphone.Device(index=0, name="USB", channels=1, sample_rate=44_100, is_default=True)

    class Refuses:
        def open(self, **_: Any) -> Any:
            raise OSError(-9985, "Device unavailable")

    with pytest.raises(AudioError, match=r"USB: cannot be opened \(Device unavailable\)"):
        microphone._record(Refuses(), device, 1.0).__enter__()
