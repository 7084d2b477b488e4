"""`vitconformer calibrate`, from a bundle and recordings to a bundle that runs in INT8."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from calibration.graph import load_graph
from edge_runtime.bundle import Bundle
from edge_runtime.precision import choose, this_processor
from edge_runtime.recognizer import Recognizer
from tests.edge_runtime.command_line import error_line, vitconformer

ROOT = Path(__file__).parents[3]
BUNDLE = ROOT / "bundles" / "en-demo"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample clips, often enough."""
    lines = []
    for line in (ROOT / "samples" / "manifest.jsonl").read_text().splitlines():
        fields = json.loads(line)
        fields["audio_filepath"] = str(ROOT / "samples" / fields["audio_filepath"])
        lines.append(json.dumps(fields))
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    path.write_text("\n".join(lines * 3) + "\n")
    return path


@pytest.fixture(scope="module")
def calibrated(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibrated")
    done = vitconformer(
        "calibrate", "--bundle", BUNDLE, "--manifest", manifest, "--out", out,
        "--chunks", 150, "--budget", 0.06, "--targets", "x86,dynamic,arm64,trt10,trt8",
        "--bundle-out", out / "bundle", "--cache", "8.6.2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ranges by" in done.stdout and "<- least" in done.stdout
    changed = re.findall(r"int8-(\w+)\.onnx: .* tokens changed ([\d.]+)%", done.stdout)
    assert [target for target, _ in changed] == ["x86", "dynamic", "arm64", "trt10", "trt8"]
    assert all(float(share) < 6 for _, share in changed)
    assert (out / "calibration.cache").read_text().startswith("TRT-8602-EntropyCalibration2\n")
    return out


def test_the_bundle_has_the_files_and_picks_the_one_that_is_fast_here(calibrated: Path) -> None:
    bundle = Bundle.open(calibrated / "bundle")
    assert set(bundle.manifest.precisions) == {
        "float32", "int8-x86", "int8-dynamic", "int8-arm64", "int8-trt10", "int8-trt8",
    }  # fmt: skip
    assert "ranges.json" in bundle.manifest.files
    goldens = bundle.goldens_file()
    assert goldens is not None and goldens.name == "goldens.npz"
    assert goldens.stat().st_size < 400_000
    sizes = {name: bundle.model(name).stat().st_size for name in bundle.manifest.precisions}
    # Matrices of the float file are stored as float16: it is half of what it computes with.
    assert sizes["int8-x86"] < 0.30 * load_graph(bundle.model()).model.ByteSize()
    chosen, why = choose(bundle.manifest.precisions, this_processor())
    done = vitconformer("inspect", calibrated / "bundle")
    assert f"({chosen}: {why})" in done.stdout


def test_int8_says_what_float_says_on_speech(calibrated: Path) -> None:
    from edge_runtime.audio import open_audio
    from edge_runtime.metrics import word_errors

    texts: dict[str, list[str]] = {}
    for precision in ("float32", "int8-x86", "int8-dynamic"):
        recognizer = Recognizer.open(calibrated / "bundle", precision=precision)
        for clip in sorted((ROOT / "samples").glob("*.flac")):
            stream = recognizer.stream()
            with open_audio(clip) as source:
                events = [event for block in source.blocks() for event in stream.push(block)]
            finals = [e.text for e in (*events, *stream.finish()) if e.type == "final"]
            texts.setdefault(precision, []).append(" ".join(finals))
    said = texts.pop("float32")
    for found in texts.values():
        errors = sum(word_errors(one, other).errors for one, other in zip(said, found, strict=True))
        # Of a model this unsure a few words turn over; benchmarks/int8.py measures how few.
        assert errors <= 0.1 * len(" ".join(said).split())


def test_the_same_ranges_give_the_same_bytes(
    calibrated: Path, manifest: Path, tmp_path: Path
) -> None:
    done = vitconformer(
        "calibrate", "--bundle", BUNDLE, "--manifest", manifest, "--out", tmp_path,
        "--ranges", calibrated / "ranges.json", "--targets", "x86,dynamic",
        "--report", tmp_path / "report", "--report-manifest", ROOT / "samples" / "manifest.jsonl",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    models = ("encoder.int8-x86.onnx", "encoder.int8-dynamic.onnx")
    for name in ("ranges.json", "goldens.npz", *models):
        assert (tmp_path / name).read_bytes() == (calibrated / name).read_bytes()
    page = (tmp_path / "report" / "report.md").read_text()
    clips = len(list((ROOT / "samples").glob("*.flac")))
    assert f"{clips} recordings" in page and "given for this report" in page
    assert all(f"| {ms} ms |" in page for ms in (80, 160, 320, 640))
    for picture in re.findall(r"]\((.+\.png)\)", page):
        assert (tmp_path / "report" / picture).stat().st_size > 5000


def test_the_script_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "calibration" / "calibrate.py", "--help"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and "--manifest" in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ["--targets", "x86,mips"],
            2,
            "--targets mips: there are x86, arm64, dynamic, dynamic7, trt10, trt8",
        ),
        (["--targets", "", "--report", "r"], 2, "name at least one with --targets"),
        (["--report-manifest", "m.jsonl"], 2, "name its directory with --report"),
        (["--cache", "11.0"], 2, "--cache 11.0: TensorRT 8 to 10 read"),
        (["--chunks", "0"], 2, "--chunks must be positive"),
        (["--chunks", "100000"], 2, "audio for .* 100000 are wanted"),
        (["--ranges", "gone.json"], 1, "gone.json: cannot be read"),
    ],
)
def test_a_mistake_is_one_clear_line_and_leaves_no_file(
    manifest: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    out = tmp_path / "out"
    done = vitconformer(
        "calibrate", "--bundle", BUNDLE, "--manifest", manifest, "--out", out,
        *(["--chunks", "20"] if "--chunks" not in options else []), *options,
    )  # fmt: skip
    assert done.returncode == code
    assert re.search(message, error_line(done)), error_line(done)
    assert not list(out.glob("encoder*"))


def test_a_short_manifest_is_refused(manifest: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(manifest.read_text().splitlines()[:24]) + "\n")
    done = vitconformer(
        "calibrate", "--bundle", BUNDLE, "--manifest", short, "--out", tmp_path / "out"
    )
    assert done.returncode == 2
    assert "has 24 utterances; calibration wants more than 24" in error_line(done)


def test_ranges_of_another_model_are_refused_before_anything_is_written(
    calibrated: Path, manifest: Path, tmp_path: Path
) -> None:
    fields = json.loads((calibrated / "ranges.json").read_text())
    other = tmp_path / "ranges.json"
    other.write_text(json.dumps({**fields, "model_sha256": "0" * 64}))
    out = tmp_path / "out"
    done = vitconformer(
        "calibrate", "--bundle", BUNDLE, "--manifest", manifest, "--out", out, "--ranges", other
    )
    assert done.returncode == 1 and "are those of another model" in error_line(done)
    assert not out.exists() or not list(out.iterdir())


def test_a_recording_that_is_missing_is_named(manifest: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines[-1]["audio_filepath"] = "/nowhere/gone.flac"
    spoilt = tmp_path / "m.jsonl"
    spoilt.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = vitconformer(
        "calibrate", "--bundle", BUNDLE, "--manifest", spoilt, "--out", tmp_path / "out"
    )
    assert done.returncode == 1 and "/nowhere/gone.flac" in error_line(done)
    assert not list((tmp_path / "out").glob("*.onnx"))


def test_stock_sherpa_onnx_loads_the_int8_file_and_reads_its_metadata(calibrated: Path) -> None:
    pytest.importorskip("sherpa_onnx")
    read_aloud = """
import sys
import soundfile, sherpa_onnx
model, tokens, clip = sys.argv[1:]
recognizer = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(tokens=tokens, model=model, num_threads=1)
stream = recognizer.create_stream()
samples, rate = soundfile.read(clip, dtype="float32")
stream.accept_waveform(rate, samples)
while recognizer.is_ready(stream):
    recognizer.decode_stream(stream)
print(recognizer.get_result(stream))
"""
    bundle, clip = Bundle.open(calibrated / "bundle"), ROOT / "samples" / "flite-slt.flac"
    done = subprocess.run(
        [sys.executable, "-c", read_aloud, bundle.model("int8-x86"), bundle.file("tokens.txt"),
         clip],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "interval" in done.stdout
