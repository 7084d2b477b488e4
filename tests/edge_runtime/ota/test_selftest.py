"""The shipped model passes its self-test; one that says something else does not."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import Bundle, write_bundle
from edge_runtime.errors import BundleError
from edge_runtime.ota.selftest import self_test
from edge_runtime.ota.settings import SelfTest
from edge_runtime.recognizer import Recognizer

DEMO = Path(__file__).parents[3] / "bundles" / "en-demo"
RULES = SelfTest(most_real_time_factor=100)


def altered(folder: Path, share: float | None) -> Recognizer:
    """The shipped INT8 model, with goldens in which some answers are altered; None: without."""
    demo = Bundle.open(DEMO)
    files: dict[str, Path | bytes] = {
        name: demo.file(name) for name in ("encoder.int8-dynamic.onnx", "tokens.txt")
    }
    if share is not None:
        with np.load(demo.file("goldens.npz")) as archive:
            arrays = dict(archive)
        frames = arrays["logprobs"].reshape(-1, arrays["logprobs"].shape[2])
        for index in np.random.default_rng(0).permutation(len(frames))[: int(share * len(frames))]:
            frames[index] = np.roll(frames[index], 1)
        sink = io.BytesIO()
        np.savez(sink, **arrays)
        files["goldens.npz"] = sink.getvalue()
    manifest = dataclasses.replace(
        demo.manifest, files={}, lm=None, lexicon=None, confidence=None, decoding={},
        precisions={"int8-dynamic": "encoder.int8-dynamic.onnx"},
        goldens=None if share is None else "goldens.npz",
    )  # fmt: skip
    write_bundle(folder / "bundle", manifest, files)
    return Recognizer.open(folder / "bundle")


def test_the_shipped_model_says_what_the_float_model_said() -> None:
    result = self_test(Recognizer.open(DEMO), RULES)
    assert result.agreement is not None and result.agreement > 0.99
    assert result.memory_bytes > 10_000_000 and "agree" in str(result)


@pytest.mark.parametrize(("share", "passes"), [(0.01, True), (0.1, False)])
def test_a_model_that_says_something_else_does_not_pass(
    tmp_path: Path, share: float, passes: bool
) -> None:
    recognizer = altered(tmp_path, share)
    if passes:
        assert self_test(recognizer, RULES).agreement == pytest.approx(1 - share, abs=0.01)
    else:
        with pytest.raises(BundleError, match=r"goldens\.npz: 9.*% of the best tokens.*97\.0%"):
            self_test(recognizer, RULES)


def test_a_bundle_without_goldens_has_to_run_all_the_same(tmp_path: Path) -> None:
    recognizer = altered(tmp_path, None)
    assert self_test(recognizer, RULES).agreement is None


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (SelfTest(most_real_time_factor=0.001), "a second of audio takes"),
        (dataclasses.replace(RULES, most_memory_bytes=1000), "the process takes"),
    ],
)
def test_slowness_and_memory_are_told_in_numbers(rules: SelfTest, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        self_test(Recognizer.open(DEMO), rules)
