"""The steps of a run as data: the one table of command lines, and what identifies a result.

A command is a template.  `{out}` is the step's own folder, `{select}` that of an earlier step, any
other name an input or a setting of the run; a name that stands alone may be a list; `[ ... ]` is
left out when a name in it is empty, as that of a step that was left out is.  What a step needs is
what its template mentions, so its result is identified by a hash over the template, the inputs'
contents, the settings, the results it builds on and the version of the code.  The same work is
never done twice.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.files import write_atomically

_NAME = re.compile(r"\{([a-z_]+)\}")
OUT = "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of a run."""

    name: str
    command: str  # a template; empty: this step is left out
    makes: tuple[str, ...] = ()  # files that must be in its folder when it has succeeded
    verdict: str = ""  # the file with `promote` and `reasons`; then exit code 1 may be a no
    timeout_s: float = 3600.0
    tries: int = 4  # before what is perhaps transient is left to a person
    outlives: bool = False  # a model or a verdict: it stays when what it was made of is erased
    again: str = ""  # the step of the first round that later steps get this one's result for

    @property
    def needs(self) -> tuple[str, ...]:
        """Every name in the template but `{out}`."""
        found = dict.fromkeys(_NAME.findall(self.command))
        return tuple(name for name in found if name != OUT)

    @property
    def required(self) -> frozenset[str]:
        """Of these, what stands outside of [ ... ]."""
        outside = re.sub(r"(?<!\S)\[\s.*?\s\](?!\S)", "", self.command)
        return frozenset(_NAME.findall(outside)) - {OUT}

    def argv(self, values: Mapping[str, str | Sequence[str]]) -> tuple[str, ...]:
        """The command line. Raises ConfigError for a name that has no value."""
        return tuple(self._words(values))

    def _words(self, values: Mapping[str, str | Sequence[str]]) -> Iterator[str]:
        held: list[str] | None = None  # the words of an open [ ... ]
        empty = False
        for word in shlex.split(self.command):
            if word == "[" and held is None:
                held, empty = [], False
                continue
            if word == "]" and held is not None:
                yield from () if empty else held
                held = None
                continue
            filled = self._fill(word, values)
            empty = empty or not filled
            if held is not None:
                held += filled
            elif not filled:
                raise ConfigError(f"{self.name}: {word}: is empty, and its command needs it")
            else:
                yield from filled
        if held is not None:
            raise ConfigError(f"{self.name}: a [ without its ] in {self.command!r}")

    def _fill(self, word: str, values: Mapping[str, str | Sequence[str]]) -> list[str]:
        for name in _NAME.findall(word):
            if name not in values:
                raise ConfigError(
                    f"{self.name}: {{{name}}} is neither an input, a setting nor an earlier step"
                )
        if not all(values[name] for name in _NAME.findall(word)):
            return []
        alone = _NAME.fullmatch(word)
        if alone and not isinstance(value := values[alone[1]], str):
            return list(value)
        return [_NAME.sub(lambda found: self._one(found[1], values), word)]

    def _one(self, name: str, values: Mapping[str, str | Sequence[str]]) -> str:
        value = values[name]
        if not isinstance(value, str):
            raise ConfigError(f"{self.name}: {{{name}}} is a list and must stand alone")
        return value


# A settings file may replace any command in its table [commands].
_FIRST: tuple[Step, ...] = (
    Step(
        name="gather",
        command="vitconformer cloud gather --config {cloud} [ --slice {slice} ] "
        "--since-ms {since_ms} --until-ms {until_ms} --out {out}",
    ),
    Step(
        name="label",
        command="vitconformer cloud label {gather} [ --settings {label_settings} ] --jobs {jobs} "
        "--out {out}",
        timeout_s=12 * 3600.0,
    ),
    Step(
        name="select",
        command="vitconformer cloud select {label} [ {relabel} ] [ --settings {select_settings} ] "
        "--manifests --out {out}",
        makes=("train.jsonl", "dev.jsonl"),
    ),
    Step(
        name="features",
        command="vitconformer features --manifest {select}/train.jsonl --out {out}/store "
        "--jobs {jobs}",
        makes=("store/store.json",),
    ),
    Step(
        name="dev_features",
        command="vitconformer features --manifest {select}/dev.jsonl --out {out}/store",
        makes=("store/store.json",),
    ),
    Step(
        name="guard_features",
        command="vitconformer features --manifest {guard_dev} --out {out}/store --jobs {jobs}",
        makes=("store/store.json",),
    ),
    Step(
        name="replay_features",
        command="vitconformer features --manifest {replay} --out {out}/store --jobs {jobs}",
        makes=("store/store.json",),
        timeout_s=12 * 3600.0,
    ),
    Step(
        name="noise",
        command="vitconformer cloud noise {gather} --out {out}",
        makes=("noise.jsonl",),
    ),
    Step(
        name="noise_features",
        command="vitconformer features --manifest {noise}/noise.jsonl --allow-empty "
        "--out {out}/store",
        makes=("store/store.json",),
    ),
    Step(
        name="retrain",
        command="vitconformer train --recipe {recipe} --init {checkpoint} --tokenizer {tokenizer} "
        "--train {features}/store --replay {replay_features}/store "
        "[ --noise {noise_features}/store ] --threads {threads} --no-curves "
        "--out {out}/run [ --set {train_set} ]",
        timeout_s=24 * 3600.0,
        tries=8,  # goes on from its last checkpoint
    ),
    Step(
        name="interpolate",
        command="vitconformer interpolate --old {checkpoint} --new {retrain}/run "
        "--tokenizer {tokenizer} --target {dev_features}/store --guard {guard_features}/store "
        "[ --noise {noise_features}/store ] --tolerance {tolerance} "
        "--out {out}/model.safetensors --json",
        makes=("model.safetensors",),
    ),
    Step(
        name="export",
        command="vitconformer export --checkpoint {interpolate}/model.safetensors "
        "--tokenizer {tokenizer} --parent {champion} --parent-weights {checkpoint} "
        "--update-step {update_step} --out {out}/bundle",
        makes=("bundle/manifest.json",),
    ),
    Step(
        name="confidence",
        command="vitconformer confidence --bundle {export}/bundle --manifest {guard_dev} "
        "{select}/dev.jsonl --limit {confidence_limit} --out {out}/confidence.json",
        makes=("confidence.json",),
    ),
    Step(
        name="bundle",
        command="vitconformer export --checkpoint {interpolate}/model.safetensors "
        "--tokenizer {tokenizer} --parent {champion} --parent-weights {checkpoint} "
        "--update-step {update_step} --confidence {confidence}/confidence.json "
        "--data {select}/train.jsonl {replay} --checkpoint-out {out}/model.safetensors "
        "--out {out}/bundle",
        makes=("bundle/manifest.json", "model.safetensors"),
        outlives=True,
    ),
)

# The student teaches its successor (noisy student training, Park et al., arXiv:2005.09629): with a
# beam and no hurry the model of the first round understands more than any device, also where no
# teacher does. What it is sure of is learnt in a second round, which goes on from that model, more
# slowly, since of the words it learns then one in five is wrong (docs/lab-notebook.md). What must
# not be forgotten is still what the champion knew.
_REPEATED = ("select", "features", "retrain", "interpolate", "export", "confidence", "bundle")
_SECOND = (
    Step(
        name="relabel",
        command="vitconformer cloud label {gather} [ --settings {label_settings} ] "
        "--teacher bundle --model {bundle}/bundle --alone {own_confidence} --jobs {jobs} "
        "--out {out}",
        timeout_s=12 * 3600.0,
    ),
    *(
        replace(
            step, name=f"{step.name}_again", again=step.name,
            command=step.command.replace(
                "--init {checkpoint}", "--init {interpolate}/model.safetensors"
            ).replace("[ --set {train_set} ]", "[ --set {train_set} ] [ --set {train_set_again} ]"),
        )
        for step in _FIRST
        if step.name in _REPEATED
    ),
)  # fmt: skip
SECOND_ROUND = tuple(step.name for step in _SECOND)

_LAST = (
    Step(
        name="calibrate",
        command="vitconformer calibrate --bundle {bundle}/bundle --manifest {guard_dev} "
        "{select}/dev.jsonl --targets {targets} --chunks {chunks} --out {out}/int8 "
        "--bundle-out {out}/bundle",
        makes=("bundle/manifest.json",),
        outlives=True,
    ),
    Step(
        name="gate",
        command="vitconformer cloud gate [ --settings {gate_settings} ] --champion {champion} "
        "--challenger {calibrate}/bundle --target {gate_target} --guard {gate_guard} "
        "[ --noise {gate_noise} ] --training {select}/train.jsonl --jobs {jobs} "
        "[ --ledger {ledger} ] --out {out}",
        verdict="verdict.json",
        outlives=True,
    ),
    Step(
        name="publish",
        command="vitconformer release --repo {repository} --keys {keys} publish --once "
        "{calibrate}/bundle",
        tries=20,
        outlives=True,
    ),
    # Nothing to start yet: devices take up what is published when they next look.
    Step(name="rollout", command="", outlives=True),
)

# The whole pipeline.
STEPS: tuple[Step, ...] = (*_FIRST, *_SECOND, *_LAST)


def newest(name: str, made: Container[str]) -> str:
    """This step, or the same of a second round if that was made."""
    again = f"{name}_again"
    return again if again in made else name


def plan(commands: Mapping[str, str], names: Sequence[str]) -> tuple[Step, ...]:
    """The table with these commands in the place of its own, empty ones left out.

    `names` are the inputs and settings there are.  Raises ConfigError for a step that does not
    exist, or a template that names something nobody makes.
    """
    known = {step.name: step for step in STEPS}
    for name in commands:
        if name not in known:
            raise ConfigError(f"commands.{name}: no such step; there are {', '.join(known)}")
    found: list[Step] = []
    latest: dict[str, str] = {}
    for step in STEPS:
        template = commands.get(step.name, commands.get(step.again, step.command))
        if not template.strip():
            continue
        command = _NAME.sub(lambda name: f"{{{latest.get(name[1], name[1])}}}", template)
        # A command that was replaced makes what it makes; the next step will miss what it lacks.
        changed = Step(
            name=step.name, command=command, timeout_s=step.timeout_s, tries=step.tries,
            makes=step.makes if template == step.command else (), verdict=step.verdict,
            outlives=step.outlives, again=step.again,
        )  # fmt: skip
        if step.again:
            latest[step.again] = step.name
        there = {*names, *(earlier.name for earlier in found)}
        optional = known.keys() - changed.required
        for need in changed.needs:
            if need not in there and need not in optional:
                raise ConfigError(
                    f"commands.{step.name}: {{{need}}} is neither an input, a setting nor an "
                    "earlier step"
                )
        found.append(changed)
    return tuple(found)


def key(
    step: Step, code: str, inputs: Mapping[str, str], settings: Mapping[str, Any],
    results: Mapping[str, str],
) -> str:  # fmt: skip
    """What identifies a step's result: 32 hex digits.

    Args:
        inputs: digest of the content of every input of the run.
        results: key of every earlier step.
    """
    facts = {
        "step": step.name,
        "command": step.command,
        "code": code,
        "needs": {
            name: inputs.get(name) or results.get(name) or settings.get(name) for name in step.needs
        },
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of all files in a folder.

    Raises ConfigError for what is not there or cannot be read.
    """
    try:
        if path.is_dir():
            lines = [
                f"{digest(file)} {file.relative_to(path).as_posix()}"
                for file in sorted(path.rglob("*"))
                if file.is_file()
            ]
            if not lines:
                raise ConfigError(f"{path}: is empty")
            return hashlib.sha256("\n".join(lines).encode()).hexdigest()
        found = hashlib.sha256()
        with path.open("rb") as source:
            while block := source.read(1 << 20):
                found.update(block)
        return found.hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


@cache
def code_version() -> str:
    """A digest of the source of every package that a step can run."""
    root = Path(__file__).parents[2]
    found = hashlib.sha256()
    for package in ("edge_runtime", "training", "calibration", "autotrain_cloud"):
        for file in sorted((root / package).rglob("*")):
            if file.suffix in (".py", ".toml"):
                found.update(f"{file.relative_to(root)} {digest(file)}\n".encode())
    return found.hexdigest()[:16]


def keep(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes what is known of a finished step beside what it made."""
    write_atomically(folder / "result.json", json.dumps(facts, indent=1).encode())
