"""The loop: resuming changes nothing, two processes add up, bad runs are refused."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from edge_runtime.errors import ConfigError
from edge_runtime.manifest import Utterance, write_manifest
from edge_runtime.tokens import Vocabulary
from training import checkpoint
from training.data import Batch
from training.recipe import Recipe, load_recipe
from training.store import build_store
from training.tokenizer import Tokenizer, train_tokenizer
from training.train import Process, Training, learning_rate, mixture, train

WORDS = "a cat sat on the mat and saw the dog that ran to the red hen in the sun".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny corpus: tokenizer and a feature store of 24 noises with a text each."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    utterances = []
    for number in range(24):
        seconds = float(rng.uniform(0.6, 1.6))
        samples = 0.05 * rng.normal(size=round(16_000 * seconds)).astype(np.float32)
        path = root / f"{number}.wav"
        soundfile.write(path, samples, 16_000)
        text = " ".join(rng.choice(WORDS, size=3))
        utterances.append(
            Utterance(audio_filepath=path, duration=seconds, text=text, speaker="noise")
        )
    write_manifest(root / "manifest.jsonl", utterances)
    build_store([root / "manifest.jsonl"], root / "store")
    train_tokenizer(
        [" ".join(WORDS)] * 3 + [u.text for u in utterances], root / "tokenizer", vocab_size=32
    )
    return root


def tiny(data: Path, *overrides: str) -> Recipe:
    recipe = load_recipe(
        "demo",
        [
            "optim.steps=6", "optim.warmup_steps=2", "run.checkpoint_steps=2", "run.log_steps=1",
            "run.dev_steps=1000", "data.max_seconds=6", "data.workers=0", "model.dropout=0.1",
            "data.curriculum_steps=0", "loss.flat_start_steps=0", "augment.start_step=0",
            "augment.specaugment=true", *overrides,
        ],
    )  # fmt: skip
    section = dataclasses.replace(
        recipe.data, train=(str(data / "store"),), tokenizer=str(data / "tokenizer")
    )
    return dataclasses.replace(recipe, data=section)


def vocabulary(data: Path) -> Vocabulary:
    return Tokenizer.load(data / "tokenizer").vocabulary


class Recorder:
    """Collects what would be curves."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        if tag == "train/ctc":
            self.losses[global_step] = scalar_value


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path)[0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_has_the_losses_and_weights_of_an_unbroken_one(
    data: Path, tmp_path: Path, optimizer: str
) -> None:
    whole, first, second = Recorder(), Recorder(), Recorder()
    recipe = tiny(data, f"optim.optimizer={optimizer}")
    end = train(recipe, tmp_path / "whole", curves=whole)
    # The schedule is that of six steps; the first part just stops after four.
    interrupted = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, interrupted, curves=_StopAt(first, 5))
    assert sorted(p.name for p in interrupted.glob("step-*")) == [
        "step-0000002.safetensors", "step-0000004.safetensors",
    ]  # fmt: skip
    again = train(recipe, interrupted, curves=second)
    assert list(second.losses) == [5, 6]
    for step, loss in whole.losses.items():
        assert (first.losses | second.losses)[step] == loss
    one, other = weights(end), weights(again)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_bfloat16_has_the_losses_of_float32_but_for_rounding_and_keeps_float32_weights(
    data: Path, tmp_path: Path
) -> None:
    curves = {"float32": Recorder(), "bfloat16": Recorder()}
    for precision, recorder in curves.items():
        recipe = tiny(data, f"optim.precision={precision}", "optim.optimizer=muon", "optim.lr=1e-4")
        end = train(recipe, tmp_path / precision, curves=recorder)
        assert {tensor.dtype for tensor in weights(end).values()} == {torch.float32}
    exact, rounded = (list(recorder.losses.values()) for recorder in curves.values())
    # The same weights, and those after one step: from there on roundings feed on one another.
    assert rounded[:2] == pytest.approx(exact[:2], rel=0.002)
    assert rounded != exact


@dataclasses.dataclass
class _StopAt:
    recorder: Recorder
    step: int

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        if global_step == self.step:
            raise KeyboardInterrupt
        self.recorder.add_scalar(tag, scalar_value, global_step)


def _command(recipe: Recipe, out: Path) -> list[str]:
    code = (
        "import sys, pickle; from pathlib import Path; from training.train import train\n"
        "if __name__ == '__main__': train(pickle.load(sys.stdin.buffer), Path(sys.argv[1]))"
    )
    return [sys.executable, "-c", code, str(out)]


def test_a_run_killed_outright_continues_where_its_last_checkpoint_was(
    data: Path, tmp_path: Path
) -> None:
    import pickle

    recipe = tiny(data, "optim.steps=40", "run.checkpoint_steps=1", "run.keep=100")
    out = tmp_path / "run"
    process = subprocess.Popen(_command(recipe, out), stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(recipe))
    process.stdin.close()
    deadline = time.monotonic() + 120
    while not list(out.glob("step-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    saved = sorted(out.glob("step-*"))
    assert 1 <= len(saved) < 40
    for path in saved:
        checkpoint.load_encoder(path)  # every file that has its name is whole
    end = train(recipe, out)
    expected = train(recipe, tmp_path / "unbroken")
    one, other = weights(end), weights(expected)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_accumulating_two_batches_is_one_step_on_their_mean_loss(data: Path) -> None:
    torch.manual_seed(0)
    recipe = tiny(data, "model.dropout=0", "chunks.tokens=[0]", "chunks.weights=[1]",
                  "augment.specaugment=false", "optim.clip=1e9",
                  "optim.optimizer=adamw")  # fmt: skip

    def batch(seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        return Batch(
            torch.randn(2, 40, 80, generator=generator) - 8,
            torch.tensor([40, 40]),
            torch.tensor([[1, 2], [3, 4]]),
            torch.tensor([2, 2]),
        )

    apart = Training(recipe, vocabulary(data), torch.device("cpu"))
    from training.train import _Forward

    apart.update(_Forward(apart.encoder), [batch(1), batch(2)], Process())
    joined = Training(recipe, vocabulary(data), torch.device("cpu"))
    one, two = batch(1), batch(2)
    both = Batch(
        torch.cat([one.features, two.features]),
        torch.cat([one.lengths, two.lengths]),
        torch.cat([one.targets, two.targets]),
        torch.cat([one.target_lengths, two.target_lengths]),
    )
    joined.update(_Forward(joined.encoder), [both], Process())
    for a, b in zip(apart.encoder.parameters(), joined.encoder.parameters(), strict=True):
        # Adam's first step is the gradient's sign times the rate: allow for gradients near zero.
        assert (a - b).abs().gt(1e-5).float().mean() < 1e-3


def test_two_processes_train_one_model(data: Path, tmp_path: Path) -> None:
    arguments = [
        "train", "--recipe", "demo", "--out", str(tmp_path / "run"), "--train", str(data / "store"),
        "--tokenizer", str(data / "tokenizer"), "--no-curves", "--set", "optim.steps=3",
        "optim.warmup_steps=1", "data.max_seconds=6", "data.workers=0", "run.log_steps=1",
        "data.curriculum_steps=0",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
         "-m", "training", *arguments],
        capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    final = tmp_path / "run" / "step-0000003.safetensors"
    assert done.stdout.split() == [str(final)]  # the leader's line, once
    encoder, facts = checkpoint.load_encoder(final)
    assert facts["step"] == 3
    assert all(torch.isfinite(p).all() for p in encoder.parameters())


def test_the_loss_falls_on_what_it_has_seen(data: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    recipe = tiny(data, "optim.steps=30", "optim.warmup_steps=5", "augment.features=false",
                  "model.dropout=0", "run.checkpoint_steps=30")  # fmt: skip
    train(recipe, tmp_path / "run", curves=recorder)
    assert recorder.losses[30] < 0.5 * recorder.losses[1]


@pytest.mark.parametrize(
    "extra",
    [
        ["loss.cr_ctc=0.2"],
        ["loss.flat_start_steps=2", "augment.start_step=2"],
        ["loss.inter_ctc=0.3", "model.inter_ctc_block=6"],
    ],
)
def test_the_regularised_losses_train(data: Path, tmp_path: Path, extra: list[str]) -> None:
    recorder = Recorder()
    train(tiny(data, "optim.steps=3", *extra), tmp_path / "run", curves=recorder)
    assert len(recorder.losses) == 3
    assert all(np.isfinite(loss) for loss in recorder.losses.values())


def test_fine_tuning_starts_from_the_average_of_another_run(data: Path, tmp_path: Path) -> None:
    first = train(tiny(data), tmp_path / "first")
    tuned = Training(tiny(data, f"run.init={first}"), vocabulary(data), torch.device("cpu"))
    average = checkpoint.prefixed(weights(first), "ema")
    for name, parameter in tuned.encoder.named_parameters():
        assert torch.equal(parameter, average[name])


def test_another_encoder_in_the_run_directory_is_refused(data: Path, tmp_path: Path) -> None:
    train(tiny(data, "optim.steps=3"), tmp_path / "run")
    with pytest.raises(ConfigError, match="another encoder"):
        train(tiny(data, "optim.steps=3", "model.arm=cnn"), tmp_path / "run")


def test_the_rate_warms_up_peaks_and_ends_low(data: Path) -> None:
    optim = tiny(data, "optim.steps=100", "optim.warmup_steps=10").optim
    rates = [learning_rate(optim, step) for step in range(100)]
    assert rates[0] == pytest.approx(optim.lr / 10)
    assert max(rates) == pytest.approx(optim.lr)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[-1] < 0.03 * optim.lr


def test_replay_is_the_share_of_the_speech_that_was_asked_for(data: Path) -> None:
    from training.data import BatchPlan

    new, old = str(data / "store"), str(data / "store")
    section = dataclasses.replace(
        tiny(data).data, train=(new,), weights=(3.0,), replay=(old, old), replay_share=0.7
    )
    stores, weights = mixture(section, speech_s=1.0)
    assert weights[0] == 3.0 and weights[1] == weights[2]
    plan = BatchPlan(
        stores=stores, weights=weights, tokenizer=Tokenizer.load(data / "tokenizer"),
        max_frames=400, epochs=200,
    )  # fmt: skip
    frames = [0, 0, 0]
    for _, examples in plan.batches():
        for store, index in zip(examples.store.tolist(), examples.index.tolist(), strict=True):
            frames[store] += int(stores[store].frames[index])
    assert sum(frames[1:]) / sum(frames) == pytest.approx(0.7, abs=0.02)
    assert mixture(dataclasses.replace(section, replay=()), 1.0)[1] == (3.0,)
    # What is new is not read more often than that in the whole run: replay takes the rest.
    seconds = 3.0 * stores[0].seconds
    for most, share in ((1.0, 0.1), (2.0, 0.2), (4.0, 0.3)):
        limited = dataclasses.replace(section, most_passes=most)
        weights = mixture(limited, speech_s=10 * seconds)[1]
        read = [w * store.seconds for w, store in zip(weights, stores, strict=True)]
        assert read[0] / sum(read) == pytest.approx(share)
    with pytest.raises(ConfigError, match=r"replay_share: between 0 and 1"):
        tiny(data, "data.replay_share=1.0")


def test_fine_tuning_begins_with_the_old_weights_and_resumes_where_it_was(
    data: Path, tmp_path: Path
) -> None:
    start = train(tiny(data), tmp_path / "first")
    store = str(data / "store")
    recipe = tiny(data, f"run.init={start}", f"data.replay=[{store!r}]", "optim.lr=1e-9")
    end = train(recipe, tmp_path / "second")
    before, after = (checkpoint.load_encoder(path)[0] for path in (start, end))
    moved = [
        float((one - other).detach().abs().max())
        for one, other in zip(before.parameters(), after.parameters(), strict=True)
    ]
    assert max(moved) < 1e-6  # at such a rate
    # Killed after its fourth step, it ends with the same weights.
    (tmp_path / "again").mkdir()
    for path in (tmp_path / "second").glob("step-0000004*"):
        (tmp_path / "again" / path.name).write_bytes(path.read_bytes())
    again = weights(train(recipe, tmp_path / "again"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights(end).items())
