"""The training loop, readable top to bottom; `torchrun` makes it data-parallel.

A step is a pure function of (recipe, step number, weights): the batch, the chunk size, the
augmentation and the dropout mask are all drawn from seeds made of the run's seed and the step.  So
a run killed at any moment and started again continues with the very losses it would have had.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edge_runtime.errors import ConfigError
from edge_runtime.tokens import WORD_START, Vocabulary
from training import checkpoint, losses
from training.data import Batch, BatchPlan, load_batches
from training.feature_augment import FeatureAugmentConfig
from training.model import Encoder, token_lengths
from training.muon import Muon
from training.recipe import DataSection, OptimSection, Recipe
from training.specaugment import SpecAugment
from training.store import FeatureStore
from training.tokenizer import Tokenizer

log = logging.getLogger(__name__)


# The tensors of each optimiser's state that a checkpoint keeps.
MOMENTS = {torch.optim.AdamW: ("exp_avg", "exp_avg_sq"), Muon: ("momentum",)}


class Curves(Protocol):
    """Where scalars go; TensorBoard's writer fits."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object: ...


@dataclasses.dataclass(frozen=True)
class Process:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[Process]:
    """Join the processes `torchrun` started, or be the only one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Process()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Process(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def learning_rate(optim: OptimSection, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_lr_ratio` of the peak at the last step."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return optim.lr * (optim.final_lr_ratio + (1 - optim.final_lr_ratio) * cosine)


def optimizers(encoder: Encoder, optim: OptimSection) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the first and the last layer if asked for, AdamW for the rest.

    Weight decay on matrices only: biases and norms have no scale to shrink.
    """
    hidden = [p for p in encoder.blocks.parameters() if p.ndim == 2 and optim.optimizer == "muon"]
    others = [p for p in encoder.parameters() if not any(p is q for q in hidden)]
    matrices = [p for p in others if p.ndim > 1]
    vectors = [p for p in others if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": optim.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, fused=True)
    if not hidden:
        return [adamw]
    precision = getattr(torch, optim.precision)
    return [
        adamw,
        Muon(hidden, lr=optim.lr, weight_decay=optim.weight_decay, precision=precision),
    ]


class Training:
    """Weights, optimiser and moving average of one run, and the step that moves them."""

    def __init__(self, recipe: Recipe, vocabulary: Vocabulary, device: torch.device) -> None:
        self.recipe = recipe
        self.device = device
        pieces = vocabulary.pieces[:-1]
        self.unit_chars = torch.tensor(
            [max(1, len(piece.strip(WORD_START))) for piece in pieces], device=device
        )
        torch.manual_seed(recipe.run.seed)
        self.encoder = Encoder(recipe.encoder(len(vocabulary))).to(device)
        if recipe.run.init:
            self.encoder.load_state_dict(
                checkpoint.load_encoder(Path(recipe.run.init))[0].state_dict()
            )
        self.ema = {n: p.detach().clone() for n, p in self.encoder.named_parameters()}
        self.optimizers = optimizers(self.encoder, recipe.optim)
        self.specaugment = SpecAugment.for_parameters(
            sum(p.numel() for p in self.encoder.parameters())
        )
        self.step = 0

    # -- one step ------------------------------------------------------------------------------

    def draw_chunk(self, draw: random.Random) -> tuple[int | None, int | None]:
        """Tokens per chunk and of left context for one batch; None is all there is."""
        chunks = self.recipe.chunks
        chunk = draw.choices(chunks.tokens, chunks.weights)[0] or None
        return chunk, (draw.choice(chunks.left) if chunk else None)

    def loss(self, model: nn.Module, batch: Batch, seed: str) -> tuple[Tensor, dict[str, float]]:
        """The training loss of a batch, and its parts for the curves."""
        recipe, draw = self.recipe, random.Random(seed)
        chunk, left = self.draw_chunk(draw)
        features, lengths = batch.features, batch.lengths
        targets, units = batch.targets, batch.target_lengths
        views = 2 if recipe.loss.cr_ctc else 1
        if views == 2:
            features, lengths = features.repeat(2, 1, 1), lengths.repeat(2)
            targets, units = targets.repeat(2, 1), units.repeat(2)
        if recipe.augment.specaugment and self.step >= recipe.augment.start_step:
            features = self.specaugment(features, lengths, seed=draw.getrandbits(32), views=views)
        autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=recipe.optim.precision == "bfloat16"
        )
        with autocast:
            log_probs, inter = model(features, lengths, chunk, left)
        tokens = token_lengths(lengths)
        parts = {"ctc": losses.ctc(log_probs, tokens, targets, units)}
        total = parts["ctc"]
        if self.step < recipe.loss.flat_start_steps:
            parts["flat_start"] = losses.flat_start(
                log_probs, tokens, features, targets, units, self.unit_chars
            )
            weight = 1 - self.step / recipe.loss.flat_start_steps
            total = (1 - weight) * total + weight * parts["flat_start"]
        if inter is not None:
            weight = recipe.loss.inter_ctc
            parts["inter_ctc"] = losses.ctc(inter, tokens, targets, units)
            total = (1 - weight) * total + weight * parts["inter_ctc"]
        if views == 2:
            first, second = log_probs.chunk(2)
            half = len(tokens) // 2
            parts["cr_ctc"] = losses.consistency(first, second, tokens[:half], units[:half])
            total = total + recipe.loss.cr_ctc * parts["cr_ctc"]
        return total, {name: part.item() for name, part in parts.items()}

    def update(self, model: nn.Module, batches: list[Batch], process: Process) -> dict[str, float]:
        """One optimiser step over `batches` (gradient accumulation)."""
        optim = self.recipe.optim
        self.encoder.train()
        curves: dict[str, float] = {}
        for index, batch in enumerate(batches):
            seed = f"{self.recipe.run.seed}/{self.step}/{index}"
            # Dropout must differ between processes, the chunk size need not.
            torch.manual_seed(random.Random(f"{seed}/{process.rank}").getrandbits(62))
            last = index == len(batches) - 1
            sync = contextlib.nullcontext() if last or process.world == 1 else model.no_sync()  # type: ignore[operator]
            with sync:
                total, parts = self.loss(model, batch.to(self.device), seed)
                (total / len(batches)).backward()
            for name, value in parts.items():
                curves[name] = curves.get(name, 0.0) + value / len(batches)
        norm = nn.utils.clip_grad_norm_(self.encoder.parameters(), optim.clip).item()
        lr = learning_rate(optim, self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            # A batch with a broken gradient must not poison the moments; the curves show it.
            if math.isfinite(norm):
                optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        # The average forgets its random beginning: (1 + n) / (10 + n) as in Polyak-style warm-ups.
        decay = min(optim.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.ema.values()), list(self.encoder.parameters()), 1 - decay
            )
        return {**curves, "grad_norm": norm, "lr": lr}

    # -- persistence ---------------------------------------------------------------------------

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        tensors = {f"model.{n}": p for n, p in self.encoder.state_dict().items()}
        tensors |= {f"ema.{n}": p for n, p in self.ema.items()}
        by_parameter = {id(p): n for n, p in self.encoder.named_parameters()}
        for optimizer in self.optimizers:
            for parameter, moments in optimizer.state.items():
                for key in moments.keys() - {"step"}:
                    tensors[f"optim.{key}.{by_parameter[id(parameter)]}"] = moments[key]
        checkpoint.save(
            path,
            tensors,
            {
                "step": self.step,
                "encoder": self.encoder.config.to_json(),
                "recipe": dataclasses.asdict(self.recipe),
                **facts,
            },
        )

    def restore(self, path: Path) -> None:
        tensors, facts = checkpoint.load(path)
        if facts["encoder"] != self._json_encoder():
            raise ConfigError(
                f"{path}: holds another encoder than the recipe; name a new --out, or start "
                f"from it with --set run.init={path}"
            )
        self.encoder.load_state_dict(checkpoint.prefixed(tensors, "model"))
        self.ema = {n: p.to(self.device) for n, p in checkpoint.prefixed(tensors, "ema").items()}
        self.ema = {n: self.ema[n] for n, _ in self.encoder.named_parameters()}
        self.step = facts["step"]
        names = {id(p): n for n, p in self.encoder.named_parameters()}
        for optimizer in self.optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                optimizer.state[parameter] = {
                    key: tensors[f"optim.{key}.{names[id(parameter)]}"].to(self.device)
                    for key in MOMENTS[type(optimizer)]
                    if f"optim.{key}.{names[id(parameter)]}" in tensors
                }
                if isinstance(optimizer, torch.optim.AdamW) and optimizer.state[parameter]:
                    step = torch.tensor(float(self.step), device=self.device)
                    optimizer.state[parameter]["step"] = step

    def _json_encoder(self) -> dict[str, Any]:
        # What JSON makes of it: tuples become lists.
        config = self.encoder.config.to_json()
        return {**config, "mixers": [list(block) for block in config["mixers"]]}

    # -- development data ----------------------------------------------------------------------

    @torch.no_grad()
    def dev_loss(self, batches: Iterator[Batch], chunk: int | None) -> float:
        """CTC nats per unit of the moving average under one chunk size."""
        encoder = Encoder(self.encoder.config).to(self.device).eval()
        encoder.load_state_dict(self.ema)
        nll, units = 0.0, 0
        for host_batch in batches:
            batch = host_batch.to(self.device)
            log_probs = encoder(
                batch.features, batch.lengths, chunk=chunk, left=64 if chunk else None
            )
            n = int(batch.target_lengths.sum())
            tokens = token_lengths(batch.lengths)
            nll += n * losses.ctc(log_probs, tokens, batch.targets, batch.target_lengths).item()
            units += n
        return nll / max(1, units)


class _Forward(nn.Module):
    """What DistributedDataParallel wraps: hidden states of both heads -> log-probabilities."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, features: Tensor, lengths: Tensor, chunk: int | None, left: int | None
    ) -> tuple[Tensor, Tensor | None]:
        encoder = self.encoder
        x, inter = encoder.encode(features, lengths, chunk=chunk, left=left)
        if inter is None or encoder.inter_head is None:
            return encoder.log_probs(x), None
        return encoder.log_probs(x), encoder.inter_head(inter).float().log_softmax(-1)


def mixture(
    data: DataSection, speech_s: float
) -> tuple[tuple[FeatureStore, ...], tuple[float, ...]]:
    """The stores of new and replayed speech, and how often each is read per epoch.

    `speech_s`: that the whole run reads, at most.

    Raises ConfigError for a store that is missing or empty.
    """
    new = tuple(FeatureStore.open(Path(path)) for path in data.train)
    old = tuple(FeatureStore.open(Path(path)) for path in data.replay)
    weights = data.weights or (1.0,) * len(new)
    if not old:
        return new, weights
    fresh = sum(w * store.seconds for w, store in zip(weights, new, strict=True))
    kept = sum(store.seconds for store in old)
    if not fresh or not kept:
        raise ConfigError("data.train, data.replay: neither may be without speech")
    share = min(1 - data.replay_share, data.most_passes * fresh / speech_s)  # of what is new
    passes = (1 - share) / share * fresh / kept
    return new + old, weights + (passes,) * len(old)


def latest(run: Path) -> Path | None:
    """The newest checkpoint of a run directory."""
    return max(run.glob("step-*.safetensors"), default=None)


def train(recipe: Recipe, run: Path, *, device: str = "cpu", curves: Curves | None = None) -> Path:
    """Train to the recipe's last step, resuming whatever `run` already holds; -> final checkpoint.

    Raises:
        ConfigError: a store or tokenizer is missing, or `run` holds another encoder.
    """
    where = torch.device(device)
    with process_group(where) as process:
        tokenizer = Tokenizer.load(Path(recipe.data.tokenizer))
        training = Training(recipe, tokenizer.vocabulary, where)
        if (path := latest(run)) is not None:
            training.restore(path)
            log.info("resuming %s at step %d", path.name, training.step)
        model: nn.Module = _Forward(training.encoder)
        if process.world > 1:
            model = nn.parallel.DistributedDataParallel(model)
        batches_s = recipe.optim.steps * recipe.optim.accumulate * recipe.data.max_seconds
        stores, weights = mixture(recipe.data, batches_s * process.world)
        plan = BatchPlan(
            stores=stores,
            weights=weights,
            tokenizer=tokenizer,
            max_frames=round(recipe.data.max_seconds * 100),
            max_utterance_s=recipe.data.max_utterance_s,
            curriculum_start_s=recipe.data.curriculum_start_s,
            curriculum_batches=recipe.data.curriculum_steps * recipe.optim.accumulate,
            augment=recipe.augment.features,
            augment_config=FeatureAugmentConfig(field=recipe.augment.noise_share).scaled(
                recipe.augment.strength
            ),
            noise=tuple(FeatureStore.open(Path(path)) for path in recipe.data.noise),
            augment_from_batch=recipe.augment.start_step * recipe.optim.accumulate,
            seed=recipe.run.seed,
            rank=process.rank,
            world=process.world,
        )
        first = training.step * recipe.optim.accumulate
        batches = load_batches(plan, start=first, workers=recipe.data.workers)
        with contextlib.closing(batches):
            _loop(training, model, batches, run, process, tokenizer, curves)
        return run / f"step-{training.step:07d}.safetensors"


def _loop(
    training: Training,
    model: nn.Module,
    batches: Iterator[Batch],
    run: Path,
    process: Process,
    tokenizer: Tokenizer,
    curves: Curves | None,
) -> None:
    recipe, settings = training.recipe, training.recipe.run
    started, speech = time.monotonic(), 0.0
    while training.step < recipe.optim.steps:
        group = [next(batches) for _ in range(recipe.optim.accumulate)]
        speech += process.world * sum(float(batch.lengths.sum()) for batch in group) / 100  # s
        values = training.update(model, group, process)
        step = training.step
        if not process.leads:
            continue
        if curves is not None:
            for name, value in values.items():
                curves.add_scalar(f"train/{name}", value, step)
        if step % settings.log_steps == 0:
            rate = speech / (time.monotonic() - started)
            log.info(
                "step %d %s, %.0fx real time", step,
                " ".join(f"{name} {value:.4g}" for name, value in values.items()), rate,
            )  # fmt: skip
        if step % settings.checkpoint_steps == 0 or step == recipe.optim.steps:
            training.save(
                run / f"step-{step:07d}.safetensors", {"tokenizer": recipe.data.tokenizer}
            )
            for old in sorted(run.glob("step-*.safetensors"))[: -settings.keep]:
                old.unlink()
        if recipe.data.dev and (step % settings.dev_steps == 0 or step == recipe.optim.steps):
            for path in recipe.data.dev:
                plan = BatchPlan(
                    stores=(FeatureStore.open(Path(path)),),
                    tokenizer=tokenizer,
                    max_frames=round(recipe.data.max_seconds * 100),
                    max_utterance_s=recipe.data.max_utterance_s,
                    augment=False,
                    epochs=1,
                )
                value = training.dev_loss(load_batches(plan), chunk=8)
                log.info("step %d dev %s ctc %.4f", step, Path(path).name, value)
                if curves is not None:
                    curves.add_scalar(f"dev/{Path(path).name}", value, step)
