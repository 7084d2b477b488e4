"""The voices that read: six free synthesisers behind one function, `speak`.

All but one are programs from Debian, run as subprocesses; Kokoro is a model for onnxruntime.

========== ================ ==================================================================
engine     speed per core   what it is
========== ================ ==================================================================
flite       55 x real time  statistical voices built from recordings; kal16, diphones: 500 x
festival    30 x            the HTS voice of slt; the diphone voices: 300 x once it has started
espeak-ng  500 x            formant rules: robotic, but many accents and vocal tracts
rhvoice     25 x            statistical voices of other recorded speakers (LGPL data)
pico       150 x            SVOX Pico, one American and one British woman (Apache-2.0 data)
kokoro       1.6 x          a neural model: 50 speakers, and mixtures of two (Apache-2.0)
========== ================ ==================================================================

Of RHVoice's voices, `evgeniy-eng` and `lyubov` are left out: their licence forbids derivatives.
Debian keeps RHVoice's data and Pico in its non-free section, because nobody has what they were
trained from; `make voices` installs them from there.  `make kokoro` brings Kokoro.

Two voices are `held_out`: a model never hears them in training, so that recognising them says
something about new speakers.  They were chosen for having no relative among the others: kal_diphone
is the same person as flite's kal16, and slt speaks in two engines, while rms and ked speak once.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import soundfile

from edge_runtime.errors import ConfigError
from training import kokoro

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """One voice of one engine. `share` is its weight when utterances are dealt out to voices."""

    engine: str
    id: str  # the engine's own name for the voice
    share: float
    held_out: bool = False

    @property
    def name(self) -> str:
        """Unique, and safe in a file name: "espeak-en-us+m3"."""
        return f"{self.engine.partition('-')[0]}-{self.id.replace(' ', '_')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line for a voice to read, and how."""

    spoken: str  # a-z, apostrophes, spaces, commas and one of .!? at the end
    speed: float = 1.0  # words per second relative to the voice's own
    pitch: float = 0.0  # -1..1 over the range that still sounds human
    tract: float = 1.0  # factor on formants and pitch at the same speed; > 1: a smaller person

    @property
    def pace(self) -> float:
        """The speed to ask of an engine whose recording is then played `tract` times faster."""
        return self.speed / self.tract


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What came out: mono samples in [-1, 1] at the engine's own rate."""

    samples: Samples  # [n]
    rate: int  # Hz


# Accents, and vocal tracts that pass for a person.  Left out: robots, whispers, creaks, Klatt
# synthesis oddities, and effects ("Demonic", "Storm").  "en" is British; under its other name,
# "en-gb", espeak-ng drops the variant without a word.
_ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland")
_TRACTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5")
_NAMED = ("en-us+Alex", "en-us+Andy", "en-us+Annie", "en+Gene", "en+Lee", "en-us+Mike")
_RARE = ("en-us-nyc+m1", "en-us-nyc+f2", "en-us-nyc+m7", "en-gb-x-gbclan+m3", "en-gb-x-gbclan+f4",
         "en-gb-x-gbcwmd+m8", "en-gb-x-gbcwmd+f1", "en-029+m2", "en-029+f3", "en-us+linda",
         "en-us+belinda", "en+pablo")  # fmt: skip
# Kokoro's speakers.  The foreign ones speak English too, with the sound of their own voices.
_KOKORO_WOMEN = (
    "af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_kore", "af_nova", "af_river",
    "af_sarah", "af_sky", "bf_alice", "bf_emma", "bf_isabella", "bf_lily", "ef_dora", "ff_siwis",
    "hf_alpha", "hf_beta", "if_sara", "jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro",
    "pf_dora", "zf_xiaobei", "zf_xiaoni", "zf_xiaoxiao", "zf_xiaoyi",
)  # fmt: skip
_KOKORO_MEN = (
    "am_adam", "am_echo", "am_eric", "am_fenrir", "am_liam", "am_michael", "am_onyx", "am_puck",
    "bm_daniel", "bm_fable", "bm_george", "bm_lewis", "em_alex", "hm_omega", "hm_psi", "im_nicola",
    "jm_kumo", "pm_alex", "zm_yunjian", "zm_yunxi", "zm_yunxia", "zm_yunyang",
)  # fmt: skip
# Mixtures of two stand for further people: every native speaker with five of the same sex.
_KOKORO_MIXED = tuple(
    f"{names[i]}+{names[(i + step) % len(names)]}"
    for names, natives in ((_KOKORO_WOMEN, 14), (_KOKORO_MEN, 12))
    for i in range(natives)
    for step in (1, 3, 5, 8, 11)
)
_KOKORO = (*_KOKORO_WOMEN, *_KOKORO_MEN, *_KOKORO_MIXED)
_ESPEAK = (*(f"{accent}+{tract}" for accent in _ACCENTS for tract in _TRACTS), *_NAMED, *_RARE)

VOICES: Mapping[str, Voice] = {
    voice.name: voice
    for voice in (
        Voice(engine="flite", id="slt", share=20),
        Voice(engine="flite", id="awb", share=17),
        Voice(engine="flite", id="kal16", share=13),
        Voice(engine="flite", id="rms", share=17, held_out=True),
        Voice(engine="rhvoice", id="alan", share=14),
        Voice(engine="rhvoice", id="bdl", share=16),
        Voice(engine="rhvoice", id="clb", share=16),
        Voice(engine="rhvoice", id="slt", share=6),
        Voice(engine="pico", id="en-US", share=14),
        Voice(engine="pico", id="en-GB", share=14),
        Voice(engine="festival", id="cmu_us_slt_arctic_hts", share=12),
        Voice(engine="festival", id="kal_diphone", share=5),
        Voice(engine="festival", id="ked_diphone", share=17, held_out=True),
        *(Voice(engine="espeak-ng", id=id, share=33 / len(_ESPEAK)) for id in _ESPEAK),
        *(Voice(engine="kokoro", id=id, share=60 / len(_KOKORO)) for id in _KOKORO),
    )
}


def select(names: Sequence[str] = ("all",), *, exclude: Iterable[str] = ()) -> tuple[Voice, ...]:
    """Voices by name or by engine, in registry order.

    "all" is every voice but the held-out ones, "held-out" is those; a held-out voice speaks only
    where it is asked for by its name or by "held-out", never by its engine.

    Raises ConfigError for a name that matches nothing, or where nothing is left.
    """

    def matches(name: str, voice: Voice) -> bool:
        if name == "held-out":
            return voice.held_out
        if voice.held_out:
            return name == voice.name
        listed = name == "all" and voice.engine != "kokoro"  # which is slow, and not from Debian
        return listed or name in (voice.name, voice.engine)

    excluded = tuple(exclude)
    for name in (*names, *excluded):
        if not any(matches(name, voice) for voice in VOICES.values()):
            known = ("all", "held-out", *_ENGINES, *VOICES)
            like = get_close_matches(name, known, n=4, cutoff=0.0)
            raise ConfigError(f"no voice {name!r}; the nearest are {', '.join(like)}")
    chosen = tuple(
        voice
        for voice in VOICES.values()
        if any(matches(n, voice) for n in names) and not any(matches(n, voice) for n in excluded)
    )
    if not chosen:
        raise ConfigError("every voice that was asked for is excluded")
    return chosen


# --- engines: each reads a batch into numbered WAV files; a line that fails leaves none -----------


def _quietly(*command: str, seconds: float = 60.0) -> None:
    """Run to the end, or kill it: whether it worked shows in the files it leaves."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, check=False, capture_output=True, timeout=seconds)


def _flite(voice: Voice, lines: Sequence[Line], folder: Path) -> None:
    for i, line in enumerate(lines):
        # No pitch: shifting a recorded speaker's F0 makes the clustergen voices buzz.
        stretch = f"duration_stretch={1 / line.pace:.3f}"
        wav = str(folder / f"{i}.wav")
        _quietly("flite", "-voice", voice.id, "--setf", stretch, "-t", line.spoken, "-o", wav)


def _festival(voice: Voice, lines: Sequence[Line], folder: Path) -> None:
    wavs = [folder / f"{i}.wav" for i in range(len(lines))]
    first = 0
    while first < len(lines):
        script = [f"(voice_{voice.id})"]
        for line, wav in zip(lines[first:], wavs[first:], strict=True):
            script.append(f"(Parameter.set 'Duration_Stretch {1 / line.pace:.3f})")
            utterance = f'(utt.synth (Utterance Text "{line.spoken}"))'
            script.append(f'(utt.save.wave {utterance} "{wav}" \'riff)')
        path = folder / "batch.scm"
        path.write_text("\n".join(script) + "\n", encoding="ascii")
        _quietly("festival", "-b", str(path), seconds=60.0 + 5 * len(lines))
        # One bad line ends the process: go on behind it.
        first = next((i for i in range(first, len(lines)) if not wavs[i].exists()), len(lines)) + 1


def _espeak(voice: Voice, lines: Sequence[Line], folder: Path) -> None:
    for i, line in enumerate(lines):
        speed = f"{165 * line.pace:.0f}"  # words a minute
        pitch = f"{50 + 20 * line.pitch:.0f}"  # 0..99
        wav = str(folder / f"{i}.wav")
        _quietly(
            "espeak-ng", "-v", voice.id, "-s", speed, "-p", pitch, "-w", wav, "--", line.spoken
        )


def _rhvoice(voice: Voice, lines: Sequence[Line], folder: Path) -> None:
    for i, line in enumerate(lines):
        text = folder / f"{i}.txt"
        text.write_text(line.spoken + "\n", encoding="ascii")
        rate = f"{100 * line.pace:.0f}"  # per cent
        pitch = f"{100 + 10 * line.pitch:.0f}"
        _quietly(
            "RHVoice-test", "-p", voice.id, "-r", rate, "-t", pitch,
            "-i", str(text), "-o", str(folder / f"{i}.wav"),
        )  # fmt: skip


def _pico(voice: Voice, lines: Sequence[Line], folder: Path) -> None:
    for i, line in enumerate(lines):
        text = (
            f"<speed level='{100 * line.pace:.0f}'><pitch level='{100 + 15 * line.pitch:.0f}'>"
            f"{line.spoken}</pitch></speed>"
        )
        _quietly("pico2wave", "-l", voice.id, "-w", str(folder / f"{i}.wav"), text)


def _kokoro(voice: Voice, lines: Sequence[Line], folder: Path) -> None:
    for i, line in enumerate(lines):
        samples = kokoro.read(voice.id, line.spoken, line.pace)
        if samples is not None:
            soundfile.write(folder / f"{i}.wav", samples, kokoro.RATE, subtype="FLOAT")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    program: str
    read: Callable[[Voice, Sequence[Line], Path], None]
    package: Callable[[Voice], str]  # the Debian package that brings the voice
    has: Callable[[Voice], bool]  # whether it is there: these programs fall back silently


def _output(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stdout


def _has_flite(voice: Voice) -> bool:
    return voice.id in _output("flite", "-lv").split()


def _has_festival(voice: Voice) -> bool:
    asked = f'(if (member (quote {voice.id}) (voice.list)) (format t "yes"))'
    return "yes" in _output("festival", "--batch", asked)


def _has_espeak(voice: Voice) -> bool:
    accent, _, variant = voice.id.partition("+")
    unknown = subprocess.run(
        ["espeak-ng", "-q", "-v", accent, "x"], check=False, capture_output=True
    )
    return not unknown.returncode and f"!v/{variant} " in _output("espeak-ng", "--voices=variant")


def _has_rhvoice(voice: Voice) -> bool:
    return any(Path(root, voice.id).is_dir() for root in _RHVOICE_DATA)


def _has_pico(voice: Voice) -> bool:
    return True  # both voices come with the program


_RHVOICE_DATA = ("/usr/share/RHVoice/voices", "/usr/local/share/RHVoice/voices")
_FESTIVAL_PACKAGES = {
    "cmu_us_slt_arctic_hts": "festvox-us-slt-hts",
    "kal_diphone": "festvox-kallpc16k",
    "ked_diphone": "festvox-kdlpc16k",
}
_ENGINES: Mapping[str, _Engine] = {
    "flite": _Engine(program="flite", read=_flite, package=lambda _: "flite", has=_has_flite),
    "festival": _Engine(
        program="festival",
        read=_festival,
        package=lambda voice: f"festival {_FESTIVAL_PACKAGES[voice.id]}",
        has=_has_festival,
    ),
    "espeak-ng": _Engine(
        program="espeak-ng", read=_espeak, package=lambda _: "espeak-ng", has=_has_espeak
    ),
    "rhvoice": _Engine(
        program="RHVoice-test",
        read=_rhvoice,
        package=lambda _: "rhvoice rhvoice-english",
        has=_has_rhvoice,
    ),
    "pico": _Engine(
        program="pico2wave", read=_pico, package=lambda _: "libttspico-utils", has=_has_pico
    ),
    "kokoro": _Engine(
        program="espeak-ng",  # which says how words sound
        read=_kokoro,
        package=lambda _: "espeak-ng",
        has=lambda voice: kokoro.has(voice.id),
    ),
}


@cache
def require(voice: Voice) -> None:
    """Raises ConfigError, naming the Debian package, unless this machine can speak as `voice`."""
    engine = _ENGINES[voice.engine]
    remedy = f"on Debian or Ubuntu: apt install {engine.package(voice)}"
    if shutil.which(engine.program) is None:
        raise ConfigError(
            f"voice {voice.name}: the program {engine.program} is not installed; {remedy}"
        )
    if not engine.has(voice):
        if voice.engine == "kokoro":
            raise ConfigError(f"voice {voice.name}: its model is not here; make kokoro fetches it")
        raise ConfigError(f"voice {voice.name}: {engine.program} does not have it; {remedy}")


def speak(voice: Voice, lines: Sequence[Line]) -> list[Recording | None]:
    """Read `lines` in one voice, in one go; None in the place of a line the engine failed on."""
    with TemporaryDirectory(prefix="vitconformer-synth-") as temporary:
        folder = Path(temporary)
        _ENGINES[voice.engine].read(voice, lines, folder)
        return [_load(folder / f"{i}.wav", voice, line) for i, line in enumerate(lines)]


def _load(path: Path, voice: Voice, line: Line) -> Recording | None:
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError):
        return None
    if not len(samples):
        return None
    # Claiming another rate plays it faster and higher.  The HTS engine ignores festival's speed, so
    # there all of it is done this way.
    faster = line.speed if voice.id.endswith("_hts") else 1.0
    return Recording(samples=samples[:, 0], rate=round(rate * faster * line.tract))
