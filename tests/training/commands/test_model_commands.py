"""`export`, `evaluate` and `confidence` as a user runs them, on an encoder of random weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from edge_runtime.bundle import Bundle
from edge_runtime.confidence import ConfidenceMap
from edge_runtime.errors import ConfigError
from edge_runtime.manifest import read_manifest
from edge_runtime.ota import delta
from tests.training.commands.test_data_commands import run
from tests.training.corpus import make_corpus, sentence
from tests.training.encoders import small
from training import checkpoint
from training.commands import confidence, evaluate, export
from training.evaluate import evaluate_bundle, evaluate_checkpoint
from training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """manifest.jsonl with its audio, tokenizer/, model.safetensors, bundle/."""
    root = tmp_path_factory.mktemp("work")
    make_corpus(root)
    train_tokenizer([sentence(i) for i in range(60)], root / "tokenizer", vocab_size=40)
    encoder = small("vit_conformer", vocab_size=41, left_context=64)
    checkpoint.save(
        root / "model.safetensors",
        {f"model.{name}": tensor for name, tensor in encoder.state_dict().items()},
        {"step": 7, "encoder": encoder.config.to_json(), "recipe": {}},
    )
    (root / "facts.json").write_text('{"metrics": {"wer": 1.0}, "training_data": {"hours": 0}}')
    (root / "card.md").write_text("# A random model\n")
    status = run(
        export, "--checkpoint", root / "model.safetensors", "--tokenizer", root / "tokenizer",
        "--out", root / "bundle", "--facts", root / "facts.json", "--card", root / "card.md",
        "--checkpoint-out", root / "shipped.safetensors", "--name", "random",
    )  # fmt: skip
    assert status == 0
    return root


def test_the_bundle_says_what_it_was_told(work: Path) -> None:
    bundle = Bundle.open(work / "bundle")
    manifest = bundle.manifest
    assert manifest.name == "random"
    assert manifest.chunks_ms == (80, 160, 320, 640)
    assert manifest.metrics == {"wer": 1.0}
    assert manifest.training_data == {"hours": 0}
    assert set(manifest.files) == {"encoder.onnx", "tokens.txt", "model-card.md"}


def test_a_successor_keeps_what_is_not_learnt_and_knows_where_it_comes_from(
    work: Path, tmp_path: Path
) -> None:
    (tmp_path / "lm.arpa").write_text("\\data\\\n")
    (tmp_path / "decoding.json").write_text('{"lm_weight": 0.3}')
    (tmp_path / "new.jsonl").write_text("{}\n")
    usual = ["--checkpoint", work / "model.safetensors", "--tokenizer", work / "tokenizer"]
    run(
        export, *usual, "--out", tmp_path / "1", "--name", "random", "--version", "0.4.0",
        "--release", 4, "--lm", tmp_path / "lm.arpa", "--decoding", tmp_path / "decoding.json",
        "--chunk-ms", 160, "--facts", work / "facts.json",
    )  # fmt: skip
    for number in (2, 3):
        run(
            export, *usual, "--parent", tmp_path / str(number - 1), "--out", tmp_path / str(number),
            "--data", tmp_path / "new.jsonl",
        )  # fmt: skip
    first, second, third = (Bundle.open(tmp_path / name).manifest for name in "123")
    assert (second.name, second.version, second.release_counter) == ("random", "0.5.0", 5)
    assert (third.version, third.release_counter) == ("0.6.0", 6)
    parent = (tmp_path / "1" / "manifest.json").read_bytes()
    assert first.parent is None and second.parent == hashlib.sha256(parent).hexdigest()
    for field in ("lm", "decoding", "default_chunk_ms", "licence"):
        assert getattr(second, field) == getattr(first, field) is not None
    assert second.files["lm.arpa"] == first.files["lm.arpa"]
    assert second.metrics == {}  # those were another model's
    new = {"file": "new.jsonl", "sha256": hashlib.sha256(b"{}\n").hexdigest()}
    assert second.training_data == {"hours": 0, "datasets": [new]}
    assert third.training_data == {"hours": 0, "datasets": [new, new]}
    with pytest.raises(ConfigError, match=r"gone\.jsonl: cannot be read"):
        run(export, *usual, "--out", tmp_path / "x", "--data", tmp_path / "gone.jsonl")


def test_a_successor_is_a_few_steps_from_its_parent_if_it_is_told_where_that_came_from(
    work: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    tensors, facts = checkpoint.load(work / "model.safetensors")
    moved = {
        name: tensor + 0.02 * tensor.std(correction=0) * torch.randn_like(tensor)
        for name, tensor in tensors.items()
    }
    checkpoint.save(tmp_path / "tuned.safetensors", moved, facts)
    usual = [
        "--checkpoint", tmp_path / "tuned.safetensors", "--tokenizer", work / "tokenizer",
        "--parent", work / "bundle",
    ]  # fmt: skip
    base, size = (work / "bundle" / "encoder.onnx").read_bytes(), {}
    for weights in ("shipped", "model"):  # exported, or as they were before that: the same
        for step in (0, 0.25, 1):
            out = tmp_path / f"{weights}-{step}"
            run(
                export, *usual, "--parent-weights", work / f"{weights}.safetensors",
                "--update-step", step, "--out", out,
            )  # fmt: skip
            new = (out / "encoder.onnx").read_bytes()
            size[weights, step] = len(delta.make(base, new)) / len(new)
    assert size["shipped", 1] < size["shipped", 0.25] < 0.4 < size["shipped", 0]
    assert size["model", 0.25] == size["shipped", 0.25]
    for options, complaint in (
        (["--update-step", 0.5], "give --parent and --parent-weights"),
        (["--update-step", -1, "--parent-weights", work / "model.safetensors"], "expected 0 to 4"),
        (["--parent-weights", tmp_path / "tuned.safetensors"], "was not made from them"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            run(export, *usual, *options, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_shipped_checkpoint_holds_the_exported_weights(work: Path) -> None:
    shipped, facts = checkpoint.load_encoder(work / "shipped.safetensors")
    original, _ = checkpoint.load_encoder(work / "model.safetensors")
    assert facts["step"] == 7
    for name, parameter in shipped.named_parameters():
        expected = dict(original.named_parameters())[name]
        assert (parameter - expected).abs().max() < 2e-3  # float16
    assert (work / "shipped.safetensors").stat().st_size < 0.55 * (
        work / "model.safetensors"
    ).stat().st_size


@pytest.mark.parametrize("chunk_ms", [80, 320])
def test_the_recogniser_says_what_the_masked_checkpoint_says(work: Path, chunk_ms: int) -> None:
    utterances = read_manifest(work / "manifest.jsonl")
    masked = evaluate_checkpoint(
        work / "shipped.safetensors", work / "tokenizer", utterances, chunk_ms
    )
    streamed = evaluate_bundle(work / "bundle", utterances, chunk_ms)
    assert any(result.hypothesis for result in masked.results)
    for one, other in zip(masked.results, streamed.results, strict=True):
        # An endpoint may fall inside what random weights call a word.
        assert one.hypothesis.replace(" ", "") == other.hypothesis.replace(" ", "")


def test_evaluate_reports_every_chunk_size_and_speaker(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", work / "model.safetensors", "--tokenizer", work / "tokenizer",
                 "--manifest", work / "manifest.jsonl", "--chunk-ms", "160,offline"]  # fmt: skip
    assert run(evaluate, *arguments, "--json", "--worst", 2) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [report["chunk_ms"] for report in reports] == [160, None]
    for report in reports:
        assert set(report["speakers"]) == {"tone-0", "tone-1", "tone-2"}
        counts = report["words"]
        errors = counts["substitutions"] + counts["deletions"] + counts["insertions"]
        assert report["wer"] == errors / (
            counts["hits"] + counts["substitutions"] + counts["deletions"]
        )
        assert len(report["worst"]) == 2
    assert run(evaluate, *arguments) == 0
    assert "offline: WER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--chunk-ms", "100"], "multiple of 40"),
        (["--chunk-ms", "fast"], "multiple of 40"),
        ([], "--tokenizer"),
    ],
)
def test_evaluate_refuses_what_it_cannot_do(
    work: Path, arguments: list[str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        run(evaluate, "--checkpoint", work / "model.safetensors", "--manifest",
            work / "manifest.jsonl", *arguments)  # fmt: skip


def test_export_refuses_unreadable_facts_and_strange_chunks(work: Path, tmp_path: Path) -> None:
    arguments = ["--checkpoint", work / "model.safetensors", "--tokenizer", work / "tokenizer",
                 "--out", tmp_path / "bundle"]  # fmt: skip
    (tmp_path / "facts.json").write_text('{"mood": "good"}')
    with pytest.raises(ConfigError, match=r"facts\.json"):
        run(export, *arguments, "--facts", tmp_path / "facts.json")
    with pytest.raises(ConfigError, match="80, 160, 320, 640"):
        run(export, *arguments, "--chunk-ms", 100)
    assert not (tmp_path / "bundle").exists()


def test_confidence_is_fitted_on_words_that_were_right_and_wrong(
    work: Path, tmp_path: Path
) -> None:
    # References are what the model says of half of the files, so that some words are right.
    utterances = read_manifest(work / "manifest.jsonl")
    report = evaluate_bundle(work / "bundle", utterances, 320)
    lines = []
    for number, result in enumerate(report.results):
        text = result.hypothesis if number % 2 else "something else entirely"
        lines.append(
            json.dumps(
                {
                    "audio_filepath": str(result.utterance.audio_filepath),
                    "duration": result.utterance.duration,
                    "text": text or "nothing",
                    "speaker": "s",
                }
            )
        )
    (tmp_path / "dev.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "confidence.json"
    status = run(confidence, "--bundle", work / "bundle", "--manifest", tmp_path / "dev.jsonl",
                 "--out", out, "--augment", "light", "--fitted-on", "tones")  # fmt: skip
    assert status == 0
    found = ConfidenceMap.load(out)
    assert found.fitted_on == "tones"
    assert found.metrics["words"] > 0
