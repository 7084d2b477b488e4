"""A training run as data: recipes are TOML, read into frozen dataclasses, every field checked.

Shipped recipes live in ``training/recipes``; `load_recipe` takes a shipped name or a path, plus
``section.field=value`` overrides from the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.errors import ConfigError
from edge_runtime.settings import build, read_toml, toml_value
from training.config import EncoderConfig, encoder_config

SHIPPED = Path(__file__).parent / "recipes"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelSection:
    size: str = "XS"
    arm: str = "vit_conformer"
    dropout: float = 0.1
    left_context: int = 64  # tokens of attention cache
    inter_ctc_block: int = 0  # 0: no intermediate head


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataSection:
    train: tuple[str, ...] = ()  # feature stores
    weights: tuple[float, ...] = ()  # how often each is read per epoch; empty: once each
    replay: tuple[str, ...] = ()  # stores of what must not be forgotten, read all alike …
    replay_share: float = 0.5  # … so often that they are this share of the speech, or more where
    most_passes: float = 30.0  # the new speech would be read more often than this in the whole run
    noise: tuple[str, ...] = ()  # stores of clips without text, laid under the speech of others
    dev: tuple[str, ...] = ()
    tokenizer: str = ""  # directory with tokenizer.model and tokens.txt
    max_seconds: float = 80.0  # speech per batch and process, padding included
    max_utterance_s: float = 20.0
    # CTC sits on a plateau until it has aligned something; short utterances end it soonest.
    curriculum_start_s: float = 3.0  # longest utterance of the first step …
    curriculum_steps: int = 1000  # … growing linearly to max_utterance_s by this step
    workers: int = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSection:
    features: bool = True  # speed, warp, noise, rooms, channels in the log-mel domain
    strength: float = 1.0  # scales how often each of them happens
    noise_share: float = 0.5  # of the examples, that get some of data.noise instead of another
    start_step: int = 0  # clean before
    specaugment: bool = True  # strength follows the number of parameters


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSection:
    """Dynamic-chunk training: one draw per batch."""

    tokens: tuple[int, ...] = (2, 4, 8, 16, 0)  # 80, 160, 320, 640 ms; 0: the whole utterance
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    left: tuple[int, ...] = (64, 64, 32, 128)  # left context in tokens, drawn evenly


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OptimSection:
    optimizer: str = "adamw"  # or "muon" for the matrices inside the blocks
    lr: float = 2e-3  # peak
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-2
    clip: float = 2.0  # gradient norm
    warmup_steps: int = 500
    steps: int = 10_000  # the cosine reaches `final_lr_ratio` here
    final_lr_ratio: float = 0.02
    accumulate: int = 1  # batches per step
    precision: str = "float32"  # or "bfloat16", where the processor has it
    ema_decay: float = 0.999


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LossSection:
    # Until this step a guessed, even alignment is learnt beside CTC, with a weight falling to 0.
    flat_start_steps: int = 0
    inter_ctc: float = 0.0  # weight of the intermediate head (arXiv:2102.03216)
    cr_ctc: float = 0.0  # weight of consistency between two views (arXiv:2410.05101); 0: one view


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunSection:
    seed: int = 1
    init: str = ""  # a checkpoint to start from: fine-tuning
    checkpoint_steps: int = 250
    keep: int = 5  # newest checkpoints kept for averaging
    dev_steps: int = 500
    log_steps: int = 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    augment: AugmentSection = AugmentSection()
    chunks: ChunkSection = ChunkSection()
    optim: OptimSection = OptimSection()
    loss: LossSection = LossSection()
    run: RunSection = RunSection()

    def __post_init__(self) -> None:
        def check(true: bool, message: str) -> None:
            if not true:
                raise ConfigError(message)

        check(
            len(self.chunks.tokens) == len(self.chunks.weights),
            "chunks.weights: one weight per entry of chunks.tokens",
        )
        check(
            not self.data.weights or len(self.data.weights) == len(self.data.train),
            "data.weights: one weight per entry of data.train, or none at all",
        )
        check(0 < self.data.replay_share < 1, "data.replay_share: between 0 and 1")
        check(self.data.most_passes > 0, "data.most_passes: above 0")
        check(
            self.optim.optimizer in ("adamw", "muon"),
            f"optim.optimizer: 'adamw' or 'muon', not {self.optim.optimizer!r}",
        )
        check(
            self.optim.precision in ("float32", "bfloat16"),
            f"optim.precision: 'float32' or 'bfloat16', not {self.optim.precision!r}",
        )
        check(
            0 < self.optim.warmup_steps < self.optim.steps, "optim.warmup_steps: below optim.steps"
        )
        check(0 <= self.augment.strength <= 1, "augment.strength: from 0 to 1")
        check(0 <= self.augment.noise_share <= 1, "augment.noise_share: from 0 to 1")
        check(
            not self.augment.features or self.augment.start_step >= self.loss.flat_start_steps,
            "augment.start_step: not before loss.flat_start_steps, whose guess needs clean speech",
        )
        check(
            bool(self.loss.inter_ctc) == bool(self.model.inter_ctc_block),
            "loss.inter_ctc and model.inter_ctc_block: both or neither",
        )

    def encoder(self, vocab_size: int) -> EncoderConfig:
        try:
            return encoder_config(
                self.model.size,
                self.model.arm,
                vocab_size=vocab_size,
                dropout=self.model.dropout,
                left_context=self.model.left_context,
                inter_ctc_block=self.model.inter_ctc_block or None,
            )
        except ValueError as error:
            raise ConfigError(f"model: {error}") from error


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe or a TOML file, with ``section.field=value`` overrides (TOML values).

    Raises:
        ConfigError: no such recipe, not TOML, an unknown field, or a value of the wrong type.
    """
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    if not path.exists():
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.toml")))
        raise ConfigError(f"{path}: there is no such recipe; shipped are {shipped}")
    fields = read_toml(path)
    for override in overrides:
        key, equals, value = override.partition("=")
        section, dot, field = key.strip().partition(".")
        if not (equals and dot):
            raise ConfigError(f"--set {override}: expected section.field=value")
        fields.setdefault(section, {})[field] = toml_value(value.strip())
    return build(Recipe, fields, str(path))
