"""What the devices hear, what the gate asks, and what only the report listens to.

`shared` sets are of voices that the model was trained on, in a quiet room, about everything; those
of a scenario are what changes. No two sets have a sentence in common. Audio is made once and kept.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.loop import prompts, sentences
from edge_runtime.manifest import Utterance, read_manifest
from training.augment import add_noise, make_noise, reverberate, room_response

KNOWN = "flite,festival,espeak-ng"
# Known voices that pocketsphinx understands as well; of espeak-ng's it gets most words wrong.
TAUGHT = "flite-slt,flite-kal16,festival-cmu_us_slt_arctic_hts,festival-kal_diphone"
SHARED = ("known-play", "replay", "guard-dev", "guard", "known")
OWN = ("drift-play", "target", "held-out")
_BLOCK = 2000  # of the general sentences, that belong to a set
_BLOCKS_OF_GATE = 8  # stand for speakers where a slice has one voice only

# The rooms: two kitchens with an extractor hood each, the mouth at arm's length.
NOISE_RT60_S, NOISE_DISTANCE_M, NOISE_SNR_DB = 0.25, 0.6, 10.0
HOODS_HZ = (238.0, 259.0)  # their blades pass so often …
HOOD_DRIFT = 0.01  # … give or take, from one recording to the next
HOOD_HARMONICS = 16


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens to the slice `kitchen`."""

    name: str
    what: str
    voices: str = KNOWN
    office: bool = False  # its sentences, not those about everything
    noisy: bool = False
    real: bool = False  # a person's, from a manifest or the prompts
    # What is learnt from, and how long, until the goals are met (docs/loop.md).
    drift_play: int = 300  # utterances of each device
    minutes: float = 12.0  # of new speech that start a retraining
    steps: int = 300  # of training …
    rounds: int = 1  # … in each of these
    replay_share: float = 0.5  # of what is trained on


# Several people, of whose words a teacher gets a third wrong: more of them, and more that is known.
PEOPLE = {"minutes": 20.0, "steps": 2000, "replay_share": 0.8}

SCENARIOS = {
    one.name: one
    for one in (
        Scenario("voice", "a voice that the model was never trained on", voices="flite-rms",
                 drift_play=600, minutes=36.0, steps=1000),
        Scenario("noise", "known voices beside an extractor hood", voices=TAUGHT, noisy=True,
                 drift_play=400, minutes=30.0, steps=1500, rounds=2),
        Scenario("vocabulary", "known voices talk about modern things", voices=TAUGHT, office=True),
        Scenario("readers", "a person whom the model has not met", real=True,
                 minutes=10.0, steps=600),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Counts:
    """Utterances of every set; of `known-play` and `drift-play`, of each device."""

    known_play: int
    replay: int
    guard_dev: int
    guard: int
    known: int
    drift_play: int
    target: int
    held_out: int

    def of(self, name: str, devices: int) -> int:
        count: int = getattr(self, name.replace("-", "_"))
        return count * devices if name.endswith("-play") else count


@dataclass(frozen=True, slots=True)
class Speech:
    """The sets of a scenario, under `folder`."""

    folder: Path
    scenario: Scenario

    def manifest(self, name: str) -> Path:
        """Of a set; the gate calls its sets by the names of their files."""
        return self._folder(name) / f"{name}.jsonl"

    def _folder(self, name: str) -> Path:
        return self.folder / ("shared" if name in SHARED else self.scenario.name) / name

    @property
    def noise(self) -> Path:
        """A minute in which nobody speaks, as a manifest."""
        return self.folder / "shared" / "noise" / "manifest.jsonl"

    def make(self, counts: Counts, people: Sequence[Utterance] = ()) -> None:
        """What is not there yet. `people`: real speech for `readers`, in place of the prompts."""
        general = sentences.examples()
        for place, name in enumerate((*SHARED, *OWN)):
            count = counts.of(name, {"known-play": 3, "drift-play": 2}.get(name, 1))
            if (self.scenario.real and name in OWN) or self._is_made(name, count):
                continue
            if self.scenario.office and name in OWN:
                texts = list(islice(sentences.office(place), _BLOCK))
            else:
                texts = general[place * _BLOCK : (place + 1) * _BLOCK]
            if name == "replay":  # and what no set has
                texts += general[len(SHARED + OWN) * _BLOCK :]
            if count > len(texts):
                raise SystemExit(f"{name}: {count} utterances; there are texts for {len(texts)}")
            voices = self.scenario.voices if name in OWN else KNOWN
            lines = [u.to_json() for u in self._spoken(name, texts, count, voices, seed=place)]
            if self.scenario.noisy and name in OWN:
                lines = [self._in_the_kitchen(name, number, u) for number, u in enumerate(lines)]
            self._write(name, lines)
        if self.scenario.real:
            self._deal([*people] or self._prompts())
        self._nobody_speaks()

    def _is_made(self, name: str, count: int) -> bool:
        """Whether there is a set of this size; one of another size goes away."""
        asked = self._folder(name) / "asked"
        if not asked.exists() or asked.read_text() != str(count):
            shutil.rmtree(self._folder(name), ignore_errors=True)
        asked.parent.mkdir(parents=True, exist_ok=True)
        asked.write_text(str(count))
        return self.manifest(name).exists()

    def _spoken(
        self, name: str, texts: Sequence[str], count: int, voices: str, seed: int
    ) -> Iterator[Utterance]:
        folder = self._folder(name)
        (folder / "text.txt").write_text("\n\n".join(texts) + "\n")
        exclude = ["--exclude-voices", "held-out"] if voices == KNOWN else []
        command = [sys.executable, "-m", "edge_runtime", "synth", "--text", folder / "text.txt"]
        command += ["--out", folder, "--utterances", count, "--voices", voices, *exclude]
        command += ["--seed", seed, "--jobs", 2, "--shard", min(count, 32)]
        with (folder / "synth.log").open("ab") as log:
            done = subprocess.run([*map(str, command)], stdout=log, stderr=log, check=False)
        if done.returncode:
            raise SystemExit(f"vitconformer synth failed; see {folder / 'synth.log'}")
        for part in sorted(folder.glob("*/manifest.jsonl")):  # train, dev, test: all one to us
            yield from read_manifest(part)

    def _in_the_kitchen(self, name: str, number: int, line: dict[str, Any]) -> dict[str, Any]:
        rng = np.random.default_rng([number, *name.encode()])
        samples, rate = soundfile.read(line["audio_filepath"], dtype="float32")
        samples = reverberate(samples, room_response(NOISE_RT60_S, NOISE_DISTANCE_M, rng))
        noise = hood(HOODS_HZ[number % len(HOODS_HZ)], len(samples), rng)
        path = self._folder(name) / "noisy" / f"{number:05}.flac"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, add_noise(samples, noise, NOISE_SNR_DB), rate)
        return line | {"audio_filepath": str(path)}

    def _prompts(self) -> list[Utterance]:
        found = []
        for path, text in prompts.decode_to(self._folder("prompts")):
            seconds = soundfile.info(path).duration
            found.append(
                Utterance(audio_filepath=path, duration=seconds, text=text, speaker=prompts.SPEAKER)
            )
        return found

    def _deal(self, found: list[Utterance]) -> None:
        """Utterances to what is played, the gate and the report."""
        found.sort(key=lambda u: str(u.audio_filepath))
        random.Random(0).shuffle(found)
        shares = {"held-out": 0.25, "target": 0.25, "drift-play": 0.5}
        start = 0.0
        for name, share in shares.items():
            some = found[round(start * len(found)) : round((start + share) * len(found))]
            start += share
            self._write(name, [u.to_json() for u in some])

    def _write(self, name: str, lines: Sequence[dict[str, Any]]) -> None:
        """A manifest that says who labelled it, with blocks of a lone voice for the gate."""
        lone = len({line.get("speaker") for line in lines}) < _BLOCKS_OF_GATE
        marked = []
        for number, line in enumerate(lines):
            speaker = f"{line.get('speaker') or name}-{name}"
            if name == "target" and lone:
                speaker = f"{speaker}-{number % _BLOCKS_OF_GATE}"
            file = Path(line["audio_filepath"]).resolve()
            marked.append(
                line | {"audio_filepath": str(file), "speaker": speaker, "label_source": "source"}
            )
        path = self.manifest(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in marked))

    def _nobody_speaks(self) -> None:
        folder = self.noise.parent
        folder.mkdir(parents=True, exist_ok=True)
        rng, lines = np.random.default_rng(0), []
        for number in range(6):
            path = folder / f"{number}.flac"
            noise = np.cumsum(rng.normal(size=160_000)) * 0.001 + rng.normal(size=160_000) * 0.01
            soundfile.write(path, np.clip(noise - noise.mean(), -1, 1).astype(np.float32), 16_000)
            lines.append({"audio_filepath": str(path), "duration": 10.0, "text": "",
                          "speaker": f"noise-{number}", "label_source": "source"})  # fmt: skip
        self.noise.write_text("".join(json.dumps(line) + "\n" for line in lines))


def hood(pitch: float, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A whine of a pitch and its overtones in moving air, f32 [count] at 16 kHz, at any level."""
    seconds = np.arange(count) / 16_000
    pitch *= rng.uniform(1 - HOOD_DRIFT, 1 + HOOD_DRIFT)
    overtones = np.arange(1, HOOD_HARMONICS + 1)[:, None]
    phases = rng.uniform(0, 2 * np.pi, overtones.shape)
    waves = np.sin(2 * np.pi * pitch * overtones * seconds + phases) / np.sqrt(overtones)
    whine, air = waves.sum(axis=0), make_noise("brown", count, rng)
    return np.asarray(whine / whine.std() + 0.5 * air / air.std(), np.float32)
