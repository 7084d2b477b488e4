"""A person whom no model here has met: Allison Smith speaks the prompts of a telephone exchange.

Asterisk's English sounds (Debian's `asterisk-core-sounds-en` and `-g722`, CC BY-SA 3.0) are a
quarter of an hour of a human voice at 16 kHz, with what is said in a list beside them. They are
decoded where they are needed and kept nowhere else.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from training.text import is_transcript, normalise

LIST = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
SPEAKER = "allison-smith"
RATE = 16_000
LEAST_WORDS = 3  # else it is a digit, a letter or a month
_LINE = re.compile(r"([\w/.-]+): (.+)")
_NOT_SAID = re.compile(r"[][()<>*#]")  # stage directions, and signs that have several names


def decode_to(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every prompt that is long enough, each text once: a FLAC file in `folder`, and its text.

    Raises FileNotFoundError that says what to install.
    """
    for place in (LIST, SOUNDS):
        if not place.exists():
            raise FileNotFoundError(
                f"{place}: missing. Install Debian's asterisk-core-sounds-en and "
                "asterisk-core-sounds-en-g722 (where documentation is left out, with "
                "-o Dpkg::Options::=--path-include=/usr/share/doc/asterisk-core-sounds-en/*)"
            )
    from G722 import G722

    folder.mkdir(parents=True, exist_ok=True)
    seen = set()
    for line in gzip.decompress(LIST.read_bytes()).decode().splitlines():
        if (found := _LINE.fullmatch(line)) is None or _NOT_SAID.search(found[2]):
            continue
        name, text = found[1], normalise(found[2])
        sound = SOUNDS / f"{name}.g722"
        if len(text.split()) < LEAST_WORDS or not is_transcript(text) or text in seen:
            continue
        if not sound.exists():
            continue
        seen.add(text)
        samples = np.asarray(G722(RATE, 64_000).decode(sound.read_bytes()), np.int16)
        path = folder / f"{name.replace('/', '-')}.flac"
        soundfile.write(path, samples, RATE)
        yield path, text
