"""`vitconformer transcribe` as a process, on sound whose words and times are known."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.edge_runtime.command_line import (
    COMMAND,
    environment,
    error_line,
    start,
    vitconformer,
)
from tests.edge_runtime.screen import Screen
from tests.edge_runtime.tones import RATE, say, word_starts, write_tone_bundle

TEXT = "t20 t35 t50, t11 t12"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone_bundle(tmp_path_factory.mktemp("tones") / "bundle").path


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    soundfile.write(path, say(TEXT), RATE)
    return path


def events(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


# --- results ------------------------------------------------------------------------------------


def test_a_pipe_gets_one_line_of_text_per_final(bundle: Path, speech: Path) -> None:
    done = vitconformer("transcribe", speech, "--bundle", bundle)
    assert (done.returncode, done.stdout, done.stderr) == (0, "t20 t35 t50\nt11 t12\n", "")


def test_without_endpoints_there_is_one_final(bundle: Path, speech: Path) -> None:
    done = vitconformer("transcribe", speech, "--bundle", bundle, "--no-endpoint")
    assert done.stdout == "t20 t35 t50 t11 t12\n"


def test_the_bundle_may_come_from_the_environment(bundle: Path, speech: Path) -> None:
    done = vitconformer("transcribe", speech, variables={"VITCONFORMER_BUNDLE": str(bundle)})
    assert done.stdout == "t20 t35 t50\nt11 t12\n"


def test_json_events_are_typed_and_their_words_are_timed(bundle: Path, speech: Path) -> None:
    done = vitconformer("transcribe", speech, "--bundle", bundle, "--json")
    heard = events(done.stdout)
    assert {event["type"] for event in heard} == {"partial", "final"}
    for event in heard:
        assert {"type", "text", "start", "end", "confidence", "words"} <= set(event)
        for word in event["words"]:
            assert set(word) == {"word", "start", "end", "confidence"}
    assert heard[-1]["type"] == "final"
    words = [word for event in heard if event["type"] == "final" for word in event["words"]]
    assert [word["word"] for word in words] == TEXT.replace(",", "").split()
    # Output frames of this model are 80 ms and may begin anywhere in a window's shift.
    assert [word["start"] for word in words] == pytest.approx(word_starts(TEXT), abs=0.1)


def test_partials_come_before_their_final_and_grow(bundle: Path, speech: Path) -> None:
    heard = events(vitconformer("transcribe", speech, "--bundle", bundle, "--json").stdout)
    texts = [event["text"] for event in heard if event["type"] == "partial"]
    assert texts[:3] == ["t20", "t20 t35", "t20 t35 t50"]


def test_a_beam_search_gives_alternatives(bundle: Path, speech: Path) -> None:
    done = vitconformer("transcribe", speech, "--bundle", bundle, "--json", "--nbest", "3")
    first = next(event for event in events(done.stdout) if event["type"] == "final")
    readings = [reading["text"] for reading in first["nbest"]]
    assert first["text"] == readings[0]
    assert 1 < len(set(readings)) == len(readings) <= 3
    scores = [reading["score"] for reading in first["nbest"]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("rate", "channels", "name"), [(48_000, 2, "a.flac"), (8_000, 1, "a.wav"), (44_100, 1, "a.ogg")]
)
def test_any_rate_channels_and_format_give_the_same_words(
    bundle: Path, tmp_path: Path, rate: int, channels: int, name: str
) -> None:
    import soxr

    sound = soxr.resample(say("t20 t35 t50"), RATE, rate)
    soundfile.write(tmp_path / name, np.tile(sound[:, None], channels), rate)
    done = vitconformer("transcribe", tmp_path / name, "--bundle", bundle)
    assert done.stdout == "t20 t35 t50\n"


def test_captions_go_to_files_while_the_text_goes_to_stdout(
    bundle: Path, speech: Path, tmp_path: Path
) -> None:
    srt, vtt = tmp_path / "a.srt", tmp_path / "a.vtt"
    done = vitconformer("transcribe", speech, "--bundle", bundle, "--srt", srt, "--vtt", vtt)
    assert done.stdout == "t20 t35 t50\nt11 t12\n"
    assert srt.read_text().startswith("1\n00:00:00,")
    assert "\nt20 t35 t50\n\n2\n00:00:03," in srt.read_text()
    assert vtt.read_text().startswith("WEBVTT\n\n00:00:00.")
    assert vtt.read_text().endswith("\nt11 t12\n\n")


def test_captions_may_go_to_stdout_instead_of_the_text(bundle: Path, speech: Path) -> None:
    done = vitconformer("transcribe", speech, "--bundle", bundle, "--vtt", "-")
    assert done.stdout.startswith("WEBVTT\n\n")
    assert done.stdout.count("t20 t35 t50") == 1


def test_realtime_gives_words_no_sooner_than_they_are_spoken(bundle: Path, speech: Path) -> None:
    process = start("transcribe", speech, "--bundle", bundle, "--json", "--realtime")
    assert process.stdout is not None
    arrivals = [(time.monotonic(), json.loads(line)) for line in process.stdout]
    process.communicate()
    spoken = arrivals[-1][1]["end"] - arrivals[0][1]["end"]
    assert spoken > 3
    assert arrivals[-1][0] - arrivals[0][0] > 0.9 * spoken


def test_a_terminal_shows_words_live_and_keeps_the_finals(bundle: Path, speech: Path) -> None:
    shown = on_a_terminal("transcribe", str(speech), "--bundle", str(bundle), "--realtime")
    screen = Screen(80)
    screen.write(shown.replace("\r\n", "\n"))
    assert [line.strip() for line in screen.lines] == ["0:00.3  t20 t35 t50", "0:03.5  t11 t12", ""]
    assert "\x1b[2mt20 t35\x1b[0m" in shown  # in flux: dim, before the final


def on_a_terminal(*args: str) -> str:
    """Everything the command writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *args],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.STDOUT,
        env=environment(TERM="xterm", COLUMNS="80"),
    )
    os.close(theirs)
    written = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            written += os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            break
    os.close(ours)
    assert process.wait(60) == 0
    return written.decode()


# --- standard input -----------------------------------------------------------------------------


def test_raw_sound_on_standard_input(bundle: Path) -> None:
    data = (say(TEXT) * 32767).astype("<i2").tobytes()
    done = vitconformer("transcribe", "-", "--bundle", bundle, stdin=data + b"\x01")
    assert done.stdout == "t20 t35 t50\nt11 t12\n"
    assert done.stderr.count("\n") == 1
    assert "warning: standard input: ends within a sample" in done.stderr


def test_raw_sound_of_another_layout_on_standard_input(bundle: Path) -> None:
    import soxr

    sound = soxr.resample(say("t20 t35"), RATE, 22_050)
    data = np.repeat(sound, 2).astype("<f4").tobytes()
    layout = ["--stdin-format", "f32le", "--stdin-rate", "22050", "--stdin-channels", "2"]
    done = vitconformer("transcribe", "-", "--bundle", bundle, *layout, stdin=data)
    assert (done.stdout, done.stderr) == ("t20 t35\n", "")


def test_a_wav_on_standard_input(bundle: Path, speech: Path) -> None:
    done = vitconformer("transcribe", "-", "--bundle", bundle, stdin=speech.read_bytes())
    assert (done.stdout, done.stderr) == ("t20 t35 t50\nt11 t12\n", "")


def test_nothing_on_standard_input_is_an_empty_final(bundle: Path) -> None:
    done = vitconformer("transcribe", "-", "--bundle", bundle, "--json")
    (event,) = events(done.stdout)
    assert (done.returncode, event["type"], event["text"]) == (0, "final", "")


# --- interruptions ------------------------------------------------------------------------------


def test_ctrl_c_shows_what_was_said_and_exits_130(bundle: Path, speech: Path) -> None:
    process = start("transcribe", speech, "--bundle", bundle, "--json", "--realtime")
    assert process.stdout is not None
    while '"t20 t35"' not in (line := process.stdout.readline()):
        assert line, "ended too early"
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    last = events(rest)[-1]
    assert (process.returncode, errors) == (130, "")
    assert last["type"] == "final"
    assert last["text"].startswith("t20 t35")


def test_a_reader_that_closes_the_pipe_ends_it_quietly(bundle: Path, speech: Path) -> None:
    process = start("transcribe", speech, "--bundle", bundle, "--json", "--realtime")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


# --- what cannot be transcribed -----------------------------------------------------------------


@pytest.mark.parametrize("samples", [0, 1])
def test_sound_of_no_length_is_an_empty_final(bundle: Path, tmp_path: Path, samples: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(samples), RATE)
    done = vitconformer("transcribe", tmp_path / "a.wav", "--bundle", bundle, "--json")
    (event,) = events(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (event["type"], event["text"], event["words"]) == ("final", "", [])


def test_a_file_that_fails_does_not_stop_the_others(
    bundle: Path, speech: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.wav"
    done = vitconformer("transcribe", missing, speech, tmp_path, speech, "--bundle", bundle)
    assert done.returncode == 1
    assert done.stdout == "t20 t35 t50\nt11 t12\n" * 2
    assert done.stderr.splitlines() == [
        f"vitconformer: error: {missing}: no such file; check the path",
        f"{speech}:",
        f"vitconformer: error: {tmp_path}: is a directory; name the audio files in it",
        f"{speech}:",
    ]


def test_json_names_the_file_where_there_are_several(
    bundle: Path, speech: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.wav"
    soundfile.write(other, say("t40"), RATE)
    done = vitconformer("transcribe", speech, other, "--bundle", bundle, "--json", "--quiet")
    assert done.stderr == ""
    texts: dict[str, list[str]] = {}
    for event in events(done.stdout):
        if event["type"] == "final" and event["text"]:
            texts.setdefault(event["file"], []).append(event["text"])
    assert texts == {str(speech): ["t20 t35 t50", "t11 t12"], str(other): ["t40"]}


def make_bad_audio(folder: Path, kind: str) -> Path:
    path = folder / "bad.wav"
    soundfile.write(path, say("t20"), RATE)
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "directory":
        path.unlink()
        path.mkdir()
    elif kind == "corrupt header":
        path.write_bytes(data[:20] + b"\xff" * 20 + data[40:])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "not audio":
        path.write_text("Dear diary, nothing happened today.\n")
    elif kind == "NaN":
        sound = say("t20")
        sound[RATE // 2] = np.nan
        soundfile.write(path, sound, RATE, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no such file; check the path"),
        ("directory", "is a directory; name the audio files in it"),
        ("corrupt header", "looks like a WAV file (Error in WAV"),
        ("empty", "empty file (0 bytes); record or download it again"),
        ("not audio", "looks like a text file"),
        ("NaN", "NaN or infinite samples from 0.500 s on; repair"),
    ],
)
def test_bad_audio_is_one_line_and_exit_code_1(
    bundle: Path, tmp_path: Path, kind: str, words: str
) -> None:
    path = make_bad_audio(tmp_path, kind)
    done = vitconformer("transcribe", path, "--bundle", bundle)
    assert done.returncode == 1
    assert error_line(done).startswith(f"{path}: ")
    assert words in error_line(done)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_one_line_and_exit_code_1(bundle: Path, speech: Path) -> None:
    speech.chmod(0)
    try:
        done = vitconformer("transcribe", speech, "--bundle", bundle)
    finally:
        speech.chmod(0o600)
    assert done.returncode == 1
    assert "permission denied" in error_line(done)


def break_bundle(path: Path, kind: str) -> None:
    model, manifest = path / "encoder.onnx", path / "manifest.json"
    fields = json.loads(manifest.read_text())
    if kind == "wrong digest":
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(data)
    elif kind == "missing file":
        (path / "tokens.txt").unlink()
    elif kind == "unknown schema":
        manifest.write_text(json.dumps({**fields, "schema_version": 99}))
    elif kind == "no manifest":
        manifest.unlink()
    elif kind == "truncated graph":  # with a manifest that vouches for it
        import hashlib

        data = model.read_bytes()[:1500]
        model.write_bytes(data)
        entry = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        fields["files"]["encoder.onnx"] = entry
        manifest.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("wrong digest", "encoder.onnx: has SHA-256"),
        ("missing file", "tokens.txt: is missing"),
        ("unknown schema", "schema_version: is 99"),
        ("no manifest", "manifest.json: is missing"),
        ("truncated graph", "encoder.onnx: "),
    ],
)
def test_a_bad_bundle_is_one_line_and_exit_code_1(
    tmp_path: Path, speech: Path, kind: str, words: str
) -> None:
    bundle = write_tone_bundle(tmp_path / "bundle").path
    break_bundle(bundle, kind)
    done = vitconformer("transcribe", speech, "--bundle", bundle)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in error_line(done)


def test_a_chunk_size_the_model_does_not_have_is_wrong_usage_and_names_those_it_has(
    bundle: Path, speech: Path
) -> None:
    done = vitconformer("transcribe", speech, "--bundle", bundle, "--chunk-ms", "123")
    assert (done.returncode, done.stdout) == (2, "")
    assert "160" in error_line(done)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bundle", "/nonexistent"], "/nonexistent: does not exist"),
        (["--hotwords", "/nonexistent"], "hotword file /nonexistent: "),
        (["--hotword", "t20:loud"], "loud"),
        (["--lm-weight", "0.5"], "no language model"),
        (["--precision", "int3"], "int3"),
        (["--srt", "/nonexistent/a.srt"], "cannot write captions to /nonexistent/a.srt: No such"),
        (["--lm", "/nonexistent"], "language model /nonexistent: no such file"),
        (["--srt", "-", "--json"], "standard output can take one of"),
        (["--stdin-rate", "3"], "standard input: sample_rate"),
    ],
)
def test_an_option_that_cannot_be_met_is_one_line(
    bundle: Path, speech: Path, options: list[str], words: str
) -> None:
    done = vitconformer("transcribe", speech, "--bundle", bundle, *options)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert words in error_line(done)


@pytest.mark.parametrize(
    "options", [["--threads", "100000"], ["--lm-weight", "nan"], ["--beam", "0"]]
)
def test_a_senseless_number_is_wrong_usage(bundle: Path, speech: Path, options: list[str]) -> None:
    done = vitconformer("transcribe", speech, "--bundle", bundle, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"argument {options[0]}: invalid" in done.stderr


def test_captions_never_overwrite_a_recording(bundle: Path, speech: Path, tmp_path: Path) -> None:
    talk, old = tmp_path / "talk.wav", tmp_path / "old.srt"
    talk.write_bytes(speech.read_bytes())
    old.write_text("1\n00:00:00,000 --> 00:00:01,000\nold\n\n")
    done = vitconformer("transcribe", "--srt", talk, speech, "--bundle", bundle)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{talk} is a recording" in error_line(done)
    assert talk.read_bytes() == speech.read_bytes()
    done = vitconformer("transcribe", "--srt", old, speech, "--bundle", bundle)
    assert done.returncode == 0
    assert "t20 t35 t50" in old.read_text()


def test_what_was_said_before_the_damage_is_shown(bundle: Path, tmp_path: Path) -> None:
    sound = say("t20 t35 t50", tail_s=0.1)
    sound[-800] = np.nan
    soundfile.write(tmp_path / "bad.wav", sound, RATE, subtype="FLOAT")
    done = vitconformer("transcribe", tmp_path / "bad.wav", "--bundle", bundle)
    assert (done.returncode, done.stdout) == (1, "t20 t35 t50\n")
    assert "NaN" in error_line(done)


def test_captions_of_several_files_are_wrong_usage(bundle: Path, speech: Path) -> None:
    done = vitconformer("transcribe", speech, speech, "--bundle", bundle, "--srt", "-")
    assert done.returncode == 2
    assert "one file at a time" in error_line(done)
