"""`vitconformer listen` with a FIFO as the microphone, at the pace of speech."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.edge_runtime.alsa import paced_fifo, write_config
from tests.edge_runtime.command_line import error_line, start, vitconformer
from tests.edge_runtime.tones import say, write_tone_bundle

pytest.importorskip("pyaudio", reason="PyAudio is not installed: it needs PortAudio to build")


def test_ctrl_c_ends_listening_with_the_final_of_what_was_said(tmp_path: Path) -> None:
    bundle = write_tone_bundle(tmp_path / "bundle").path
    spoken = (say("t20 t35, t50 t60 " + "t70 t75 " * 10) * 32767).astype(np.int16)
    with paced_fifo(tmp_path / "mic", spoken) as fifo:
        config = write_config(tmp_path / "asound.conf", {"default": fifo})
        process = start(
            "listen", "--bundle", bundle, "--json", variables={"ALSA_CONFIG_PATH": str(config)}
        )
        assert process.stdout is not None
        heard = []
        while not heard or heard[-1]["text"] != "t50 t60":
            heard.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    heard += [json.loads(line) for line in rest.splitlines()]
    finals = [event["text"] for event in heard if event["type"] == "final"]
    assert process.returncode == 0
    assert errors == "Listening to default; Ctrl-C stops.\n"
    assert finals[0] == "t20 t35"
    assert finals[-1].startswith("t50 t60")
    assert heard[-1]["type"] == "final"


def test_no_microphone_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    bundle = write_tone_bundle(tmp_path / "bundle").path
    config = write_config(tmp_path / "asound.conf", {"default": tmp_path / "nothing"})
    done = vitconformer("listen", "--bundle", bundle, variables={"ALSA_CONFIG_PATH": str(config)})
    assert (done.returncode, done.stdout) == (1, "")
    assert error_line(done).startswith("no microphone found; ")


def test_the_microphones_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    microphones = {"default": tmp_path / "a.raw", "headset": tmp_path / "a.raw"}
    config = write_config(tmp_path / "asound.conf", microphones)
    done = vitconformer("listen", "--list-devices", variables={"ALSA_CONFIG_PATH": str(config)})
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sorted(line.split()[-5] for line in lines) == ["default", "headset"]
    assert next(line for line in lines if line.startswith("*")).split()[2] == "default"
